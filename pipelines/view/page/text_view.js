// Text of a model's on the page: escapes are set apart from what was written.
import { html } from "passrl/html";
import { parts, textParts } from "passrl/text";

const CLIPPED = 2000; // bytes of one token that are shown at once

function shown(part) {
  if (part.text !== undefined) return [part.text];
  const mark = html`<span class="escape" title=${part.title}>${part.escape}</span>`;
  return part.break ? [mark, "\n"] : [mark];
}

/** Bytes, as what is shown of them: strings and marked escapes. */
export function shownBytes(bytes) {
  return parts(bytes).flatMap(shown);
}

/** A token's bytes; of very long ones the beginning, and how much more there is. */
export function shownToken(bytes) {
  if (bytes.length <= CLIPPED) return shownBytes(bytes);
  let end = CLIPPED;
  while (end > CLIPPED - 4 && (bytes[end] & 0xc0) === 0x80) end -= 1;
  const left = (bytes.length - end).toLocaleString("en");
  return [...shownBytes(bytes.subarray(0, end)), html`<span class="escape">… ${left} more bytes</span>`];
}

/** A whole text; beyond `limit` characters behind a switch. */
export function Written({ text, bytes, limit = 20000 }) {
  const whole = bytes === undefined ? textParts(text) : parts(bytes);
  const [first, rest] = cut(whole, limit);
  return html`<div class="written" dir="ltr">
    ${first.flatMap(shown)}
    ${
      rest.length
        ? html`<details>
            <summary>the rest</summary>
            ${rest.flatMap(shown)}
          </details>`
        : null
    }
  </div>`;
}

function cut(whole, limit) {
  let room = limit;
  for (const [index, part] of whole.entries()) {
    const length = (part.text ?? part.escape).length;
    if (length > room) {
      if (part.text === undefined) return [whole.slice(0, index), whole.slice(index)];
      const [head, tail] = [part.text.slice(0, room), part.text.slice(room)];
      return [
        [...whole.slice(0, index), { text: head }],
        [{ text: tail }, ...whole.slice(index + 1)],
      ];
    }
    room -= length;
  }
  return [whole, []];
}
