// Where the reader is, as the URL's fragment: "#/group/3?rollout=1&token=40". Every view can be linked to.
import { useLayoutEffect, useState } from "passrl/html";

/** {view, id, options}: "#/group/3?setting=1" is {view: "group", id: 3, options: {setting: "1"}}. */
export function parse(fragment) {
  const [path, query = ""] = fragment.replace(/^#\/?/, "").split("?", 2);
  const [view = "", id = ""] = path.split("/");
  return { view, id: /^\d+$/.test(id) ? Number(id) : null, options: Object.fromEntries(new URLSearchParams(query)) };
}

/** The fragment of a place; options that are null, undefined or "" are left out. */
export function link(view, id = null, options = {}) {
  const kept = Object.entries(options).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(kept).toString();
  return `#/${view}${id === null ? "" : `/${id}`}${query ? `?${query}` : ""}`;
}

// In a notebook's frame (about:srcdoc) "#..." would lead to the notebook's own address: there the place is kept here.
const framed = location.protocol === "about:";
let kept = "";

function follow(fragment) {
  kept = fragment;
  window.dispatchEvent(new HashChangeEvent("hashchange"));
}

function onClick(event) {
  const fragment = event.target.closest?.("a")?.getAttribute("href");
  if (!fragment?.startsWith("#/")) return;
  event.preventDefault();
  follow(fragment);
}

/** Change the place's options without a new step in the history. */
export function replaceOptions(route, options) {
  const fragment = link(route.view, route.id, { ...route.options, ...options });
  if (!framed) history.replaceState(null, "", fragment);
  follow(fragment);
}

/** The place now, drawn again when it changes. */
export function useRoute() {
  const now = () => parse(framed ? kept : location.hash);
  const [route, setRoute] = useState(now);
  useLayoutEffect(() => {
    const changed = () => setRoute(now());
    window.addEventListener("hashchange", changed);
    if (framed) document.addEventListener("click", onClick);
    return () => {
      window.removeEventListener("hashchange", changed);
      document.removeEventListener("click", onClick);
    };
  }, []);
  return route;
}
