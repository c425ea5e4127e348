// What a model wrote, byte for byte, as parts to be shown: text, and escapes for what a screen would hide or obey.

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

// Controls, formats (bidi marks, zero width), surrogates, private use, unassigned, separators of lines and paragraphs;
// and from the fourth on, combining marks in a row, which would be stacked over the neighbours.
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]|(?<=\p{M}{3})\p{M}/u;
const NAMED = new Map([
  ["\n", "↵"],
  ["\r", "\\r"],
  ["\t", "⇥"],
  ["\u001b", "\\e"],
  ["\u0000", "\\0"],
]);

/** Bytes as a list of {text} and {escape, title, break}: in this order they are the bytes, nothing left out. */
export function parts(bytes) {
  const found = [];
  for (let start = 0; start < bytes.length;) {
    const end = validUntil(bytes, start);
    if (end > start) split(decoder.decode(bytes.subarray(start, end)), found);
    if (end < bytes.length) {
      const byte = bytes[end].toString(16).toUpperCase().padStart(2, "0");
      found.push({ escape: `\\x${byte}`, title: `byte 0x${byte}, which is no whole UTF-8 character` });
    }
    start = end + (end < bytes.length ? 1 : 0);
  }
  return found;
}

/** Text as the same list. */
export function textParts(text) {
  const found = [];
  split(text, found);
  return found;
}

/** One line of plain characters for lists and labels: escapes written out, cut after limit characters. */
export function plain(text, limit = Infinity) {
  const cut = text.length > limit;
  const shown = textParts(cut ? text.slice(0, limit) : text)
    .map((part) => part.text ?? (part.break ? "↵" : part.escape))
    .join("");
  return cut ? `${shown}…` : shown;
}

function split(text, found) {
  let run = "";
  for (const [, character, before] of characters(text)) {
    if (before) run += character;
    else {
      if (run) found.push({ text: run });
      run = "";
      found.push(escaped(character));
    }
  }
  if (run) found.push({ text: run });
}

function* characters(text) {
  if (!HIDDEN.test(text)) {
    if (text) yield [0, text, true];
    return;
  }
  let at = 0;
  for (const match of text.matchAll(new RegExp(HIDDEN.source, "gu"))) {
    if (match.index > at) yield [at, text.slice(at, match.index), true];
    yield [match.index, match[0], false];
    at = match.index + match[0].length;
  }
  if (at < text.length) yield [at, text.slice(at), true];
}

function escaped(character) {
  const code = character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
  const named = NAMED.get(character);
  return { escape: named ?? `\\u{${code}}`, title: `U+${code}`, break: character === "\n" };
}

// The end of the longest run of whole UTF-8 characters from start on.
function validUntil(bytes, start) {
  let at = start;
  while (at < bytes.length) {
    const length = sequenceLength(bytes, at);
    if (length === 0) break;
    at += length;
  }
  return at;
}

// How many bytes the character at `at` has; 0 where there is no whole one (RFC 3629, table 3-7 of Unicode).
function sequenceLength(bytes, at) {
  const first = bytes[at];
  if (first < 0x80) return 1;
  const length =
    first >= 0xc2 && first <= 0xdf ? 2 : first >= 0xe0 && first <= 0xef ? 3 : first >= 0xf0 && first <= 0xf4 ? 4 : 0;
  if (length === 0 || at + length > bytes.length) return 0;
  const low = { 0xe0: 0xa0, 0xf0: 0x90 }[first] ?? 0x80;
  const high = { 0xed: 0x9f, 0xf4: 0x8f }[first] ?? 0xbf;
  if (bytes[at + 1] < low || bytes[at + 1] > high) return 0;
  for (let index = 2; index < length; index += 1) if ((bytes[at + index] & 0xc0) !== 0x80) return 0;
  return length;
}
