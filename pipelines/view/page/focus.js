// Where the reader is in a group: the chunk under the pointer, or the focused one; arrow keys; where a link leads.
import { useLayoutEffect, useRef, useState } from "passrl/html";
import { chunkAt, chunksOf } from "passrl/tokens";

const sameChunk = (one, other) =>
  one !== null && one.row === other.row && one.setting === other.setting && one.chunk === other.chunk;

/** The place of an element within a chunk: {row, setting, chunk, token}, or null outside of chunks. */
function placeOf(element) {
  const chunk = element.closest?.(".chunk");
  if (!chunk) return null;
  const token = element.closest(".t");
  return {
    row: Number(chunk.closest(".rollout").dataset.row),
    setting: Number(chunk.closest(".pane").dataset.setting),
    chunk: Number(chunk.dataset.chunk),
    token: token ? Number(token.dataset.t) : null,
  };
}

const paneOf = (board, row, setting) =>
  board.querySelector(`.rollout[data-row="${row}"] .pane[data-setting="${setting}"]`);
const elementOf = (board, { row, setting, chunk }) =>
  paneOf(board, row, setting)?.querySelector(`[data-chunk="${chunk}"]`) ?? null;

/**
 * Follows pointer and keys on the board, marks the chunk there and its tokens under the other setting; the place.
 * goal: {row, token, setting} that a link names: the place goes there when `key` changes.
 */
export function useChunkFocus({ board, group, goal, key, settings }) {
  const [place, setPlace] = useState(null);
  const wanted = useRef(null); // where the place is to be scrolled to, once it is drawn; null where a pointer is at it
  // Before anyone can point or press: an effect comes a frame after what it is for.
  useLayoutEffect(() => {
    const root = board.current;
    // A chunk that is focused is no reason to leave the token that the reader is at.
    const point = (event) => {
      const next = placeOf(event.target);
      if (next !== null) setPlace((now) => (next.token === null && sameChunk(now, next) ? now : next));
    };
    const press = (event) => {
      const next = pressed(event, { root, group, settings });
      if (next === null) return;
      event.preventDefault();
      wanted.current = "nearest";
      setPlace(next);
    };
    const listeners = { mouseover: point, focusin: point, keydown: press };
    for (const [name, listener] of Object.entries(listeners)) root.addEventListener(name, listener);
    return () => {
      for (const [name, listener] of Object.entries(listeners)) root.removeEventListener(name, listener);
    };
  }, [group, settings.join()]);
  useLayoutEffect(() => {
    mark(board.current, group, place, settings);
    if (place === null || wanted.current === null) return;
    const element = elementOf(board.current, place);
    element?.focus({ preventScroll: true });
    (element?.querySelector(".cursor") ?? element)?.scrollIntoView({ block: wanted.current, inline: "nearest" });
    wanted.current = null;
  }, [group, place, key]);
  // After what marks the place: that would scroll to the old one.
  useLayoutEffect(() => {
    const chunk = goal.row === null ? undefined : chunkAt(group, goal.row, goal.setting, goal.token ?? 0);
    if (chunk !== undefined) wanted.current = "center";
    setPlace(
      chunk === undefined ? null : { row: goal.row, setting: goal.setting, chunk: chunk.index, token: goal.token },
    );
  }, [group, key]);
  return place;
}

// One chunk of the board is a tab stop (roving tabindex): the one the reader is at, else the first.
function mark(root, group, place, settings) {
  for (const element of root.querySelectorAll(".here, .there, .cursor"))
    element.classList.remove("here", "there", "cursor");
  for (const element of root.querySelectorAll('.chunk[tabindex="0"]')) element.tabIndex = -1;
  const here = place === null ? null : elementOf(root, place);
  const stop = here ?? root.querySelector(".chunk");
  if (stop) stop.tabIndex = 0;
  if (here === null) return;
  here.classList.add("here");
  if (place.token !== null) here.querySelector(`[data-t="${place.token}"]`)?.classList.add("cursor");
  const { start, end } = chunksOf(group, place.row, place.setting)[place.chunk];
  for (const setting of settings.filter((one) => one !== place.setting)) {
    for (const token of paneOf(root, place.row, setting)?.querySelectorAll(".t") ?? []) {
      if (token.dataset.t >= start && token.dataset.t < end) token.classList.add("there");
    }
  }
}

// Where a key leads from the chunk in focus, or null.
function pressed(event, { root, group, settings }) {
  const place = placeOf(event.target);
  if (place === null || event.altKey || event.ctrlKey || event.metaKey) return null;
  return event.shiftKey ? tokenStep(event.key, root, group, place) : chunkStep(event.key, group, place, settings);
}

// Left and right: the chunks of a rollout; up and down: the same token of its neighbours; Home and End: first and last.
function chunkStep(key, group, place, settings) {
  const { row, setting } = place;
  const chunks = chunksOf(group, row, setting);
  const to = (chunk) => (chunk >= 0 && chunk < chunks.length ? { ...place, chunk, token: null } : null);
  if (key === "ArrowRight") return to(place.chunk + 1);
  if (key === "ArrowLeft") return to(place.chunk - 1);
  if (key === "Home") return to(0);
  if (key === "End") return to(chunks.length - 1);
  const beside = { ArrowDown: row + 1, ArrowUp: row - 1 }[key];
  if (beside !== undefined && beside >= 0 && beside < group.rollouts.length) {
    const found = chunkAt(group, beside, setting, chunks[place.chunk].start);
    return found === undefined ? null : { row: beside, setting, chunk: found.index, token: null };
  }
  if (key === "Enter" && settings.length > 1) {
    const other = settings.find((one) => one !== setting);
    const found = chunkAt(group, row, other, chunks[place.chunk].start);
    return found === undefined ? null : { row, setting: other, chunk: found.index, token: null };
  }
  return null;
}

// With Shift: left and right go from token to token within the chunk.
function tokenStep(key, root, group, place) {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[key];
  if (by === undefined) return null;
  const { start, end } = chunksOf(group, place.row, place.setting)[place.chunk];
  const cursor = elementOf(root, place).querySelector(".cursor");
  const token = cursor === null ? (by > 0 ? start : end - 1) : Number(cursor.dataset.t) + by;
  return token >= start && token < end ? { ...place, token } : null;
}
