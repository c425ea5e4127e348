// The templating library: everything on the page is made by these, so nothing on it is ever parsed as HTML.
// htm leaves out a space that holds a line break: a sentence over several lines is a string of its own.
import { Fragment, h, render } from "preact";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "hooks";
import htm from "htm";

export const html = htm.bind(h);
export { Fragment, render, useEffect, useLayoutEffect, useMemo, useRef, useState };
