// Reads what docs/reference/view-payload.md describes: the head, and groups when they are looked at.
import { plain } from "passrl/text";

const VERSION = 1;
const KEPT = 12; // decoded groups; an opened one is about 1 MB
const ITEMS = { u1: Uint8Array, i4: Int32Array, u4: Uint32Array, f4: Float32Array };

// Texts that are shown at length, with their lines: where they are drawn, escapes are set apart.
const WRITTEN = new Set(["answer", "text"]);

// All other strings are shown in lines and lists: what a screen would hide or obey is written out as they are read.
function readJson(text) {
  return JSON.parse(text, (key, value) => (typeof value === "string" && !WRITTEN.has(key) ? plain(value) : value));
}

/** The head. Throws where the file is of another version than this page. */
export function readHead() {
  const head = readJson(document.getElementById("passrl-head").textContent);
  if (head.payload !== VERSION) {
    throw new Error(
      `this file's payload is of version ${head.payload}, its page reads ${VERSION}: write the file again`,
    );
  }
  return head;
}

const groups = new Map();

/** A promise of group number `index`; the last few are kept. */
export function readGroup(index) {
  const found = groups.get(index) ?? decode(index);
  groups.delete(index);
  groups.set(index, found);
  if (groups.size > KEPT) groups.delete(groups.keys().next().value);
  return found;
}

async function decode(index) {
  const block = document.getElementById(`passrl-group-${index}`);
  if (block === null) throw new Error(`this file holds no group number ${index}`);
  const packed = Uint8Array.from(atob(block.textContent.trim()), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Group(new Uint8Array(await new Response(stream).arrayBuffer()));
}

/** One group: its head, and its arrays as typed arrays, each unpacked when it is first asked for. */
export class Group {
  #arrays = new Map();
  #places;
  #body;

  constructor(bytes) {
    const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
    this.head = readJson(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
    this.#body = bytes.subarray(4 + length);
    this.#places = new Map(this.head.arrays.map((place) => [place.name, place]));
    this.rollouts = this.head.rollouts;
  }

  has(name) {
    return this.#places.has(name);
  }

  /** A whole array, or null where there is none of this name. */
  array(name) {
    if (!this.#places.has(name)) return null;
    if (!this.#arrays.has(name)) this.#arrays.set(name, unpack(this.#body, this.#places.get(name)));
    return this.#arrays.get(name);
  }

  /** The part of an array that belongs to rollout `row`, or null. */
  of(name, row) {
    const items = this.array(name);
    if (items === null) return null;
    const { axis } = this.#places.get(name);
    if (axis === "rollout") return items.subarray(row, row + 1);
    const offsets = this.array(`offsets:${axis}`);
    return items.subarray(offsets[row], offsets[row + 1]);
  }

  /** Tokens of a rollout that are known one by one. */
  tokens(row) {
    const offsets = this.array("offsets:token");
    return offsets === null ? 0 : offsets[row + 1] - offsets[row];
  }

  /** The bytes of token `token` of a rollout, or null where token texts are not known. */
  bytes(row, token) {
    const text = this.array("text");
    if (text === null) return null;
    this.starts ??= runningSum(this.array("text_lengths"));
    const at = this.array("offsets:token")[row] + token;
    return text.subarray(this.starts[at], this.starts[at + 1]);
  }
}

// Items lie in byte planes: first the first bytes of all items, then the second ones.
function unpack(body, { dtype, at, count }) {
  const size = ITEMS[dtype].BYTES_PER_ELEMENT;
  const bytes = new Uint8Array(count * size);
  for (let plane = 0; plane < size; plane += 1) {
    const from = at + plane * count;
    for (let item = 0; item < count; item += 1) bytes[item * size + plane] = body[from + item];
  }
  return new ITEMS[dtype](bytes.buffer);
}

function runningSum(lengths) {
  const sums = new Uint32Array(lengths.length + 1);
  for (let index = 0; index < lengths.length; index += 1) sums[index + 1] = sums[index] + lengths[index];
  return sums;
}
