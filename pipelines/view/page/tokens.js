// The tokens of one rollout: coloured, cut into chunks, with the scores of steps at their ends; drawn as far as they are
// looked at.
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "passrl/html";
import { number, signed } from "passrl/numbers";
import { colourClass } from "passrl/palette";
import { stepsOf } from "passrl/quantities";
import { shownToken } from "passrl/text_view";

const DRAWN = 1500; // tokens drawn at first, and again each time their end comes near

/** The chunks of a rollout under a setting: [{index, start, end}]. */
export function chunksOf(group, row, setting) {
  const ends = group.of(`chunk_ends/${setting}`, row) ?? [];
  return Array.from(ends, (end, index) => ({ index, start: index ? ends[index - 1] : 0, end }));
}

/** The chunk that holds a token, or the last one. */
export function chunkAt(group, row, setting, token) {
  const chunks = chunksOf(group, row, setting);
  return chunks.find((chunk) => token < chunk.end) ?? chunks.at(-1);
}

function stepScores(group, row, steps) {
  const found = new Map();
  for (const column of steps) {
    const ends = group.of(`ends:${stepsOf(column.axis)}`, row);
    const scores = group.of(column.name, row);
    ends?.forEach((end, index) => {
      const label = `${steps.length > 1 ? `${column.label} ` : ""}${number(scores[index], 3)}`;
      found.set(end - 1, [...(found.get(end - 1) ?? []), label]);
    });
  }
  return found;
}

function tokenClass(value, masked, paint, flipped) {
  const colour = masked ? "masked" : colourClass(value, paint.limit, paint.quantity.kind);
  const negative = !masked && paint.quantity.kind === "signed" && value < 0 ? " negative" : "";
  return `t ${colour}${negative}${flipped ? " flipped" : ""}`;
}

const Score = ({ label }) => html`<sup class="score" title="score of the step that ends here">${label}</sup>`;

function Chunk({ group, row, chunk, until, paint, mask, scores }) {
  const special = group.of("special", row);
  const tokens = [];
  for (let token = chunk.start; token < Math.min(chunk.end, until); token += 1) {
    const masked = mask !== null && !mask[token];
    const style = tokenClass(paint.values[token], masked, paint, paint.flips?.has(token));
    const shown = shownToken(group.bytes(row, token));
    const ends = (scores.get(token) ?? []).map((label) => html`<${Score} label=${label} />`);
    // A step that ends with its line has its score on that line.
    const broken = ends.length > 0 && shown.at(-1) === "\n";
    tokens.push(
      html`<span class=${special?.[token] ? `${style} special` : style} data-t=${token}
        >${broken ? [...shown.slice(0, -1), ...ends, "\n"] : shown}</span
      >`,
    );
    if (!broken) tokens.push(...ends);
  }
  const told = paint.told ? `, ${paint.told(chunk)}` : "";
  return html`<span
    class="chunk"
    role="group"
    tabindex="-1"
    data-chunk=${chunk.index}
    aria-label=${`chunk ${chunk.index + 1}, tokens ${chunk.start} to ${chunk.end - 1}${told}`}
    >${tokens}</span
  >`;
}

/**
 * All chunks of a rollout. paint: {quantity, values, limit, flips, setting}; reach: a token that must be drawn.
 * Hovering and focus are the parent's, which finds data-chunk and data-t: drawing them again here would be slow.
 */
export function Tokens({ group, row, paint, steps, reach = 0 }) {
  const count = group.tokens(row);
  const [drawn, setDrawn] = useState(DRAWN);
  const until = Math.min(count, Math.max(drawn, reach + DRAWN / 2));
  const drawTo = (end) => setDrawn((now) => Math.max(now, end)); // one that comes late takes nothing away
  useEffect(() => drawTo(until), [until]);
  useBeforePrint(() => drawTo(count));
  const body = useMemo(() => {
    const mask = group.of("loss_mask", row);
    const scores = stepScores(group, row, steps);
    const advantages = group.of(`chunk_advantages/${paint.setting}`, row);
    const told = { ...paint, told: (chunk) => `advantage ${signed(advantages[chunk.index])}` };
    return chunksOf(group, row, paint.setting)
      .filter((chunk) => chunk.start < until)
      .map(
        (chunk) => html`<${Chunk} key=${chunk.index} ...${{ group, row, chunk, until, mask, scores, paint: told }} />`,
      );
  }, [group, row, paint, steps, until]);
  return html`<div class="tokens" dir="ltr">${body}</div>
    ${until < count ? html`<${More} left=${count - until} more=${() => drawTo(until + DRAWN)} />` : null}`;
}

function useBeforePrint(draw) {
  useLayoutEffect(() => {
    window.addEventListener("beforeprint", draw);
    return () => window.removeEventListener("beforeprint", draw);
  });
}

/** Says that there is more, and draws it when it comes into view or is asked for. */
function More({ left, more }) {
  const place = useRef(null);
  useEffect(() => {
    const watcher = new IntersectionObserver((seen) => seen.some((entry) => entry.isIntersecting) && more(), {
      rootMargin: "400px",
    });
    watcher.observe(place.current);
    return () => watcher.disconnect();
  });
  return html`<button ref=${place} class="more" onClick=${more}>${number(left)} more tokens</button>`;
}

/** Draws its children when they come near the view, or when the page is printed; from then on they stay. */
export function WhenSeen({ children, at_once: atOnce }) {
  const place = useRef(null);
  const [seen, setSeen] = useState(atOnce);
  const show = () => setSeen(true);
  useBeforePrint(show);
  useEffect(() => {
    if (seen) return undefined;
    if (atOnce) return show();
    const watcher = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && show(), {
      rootMargin: "600px",
    });
    watcher.observe(place.current);
    return () => watcher.disconnect();
  }, [seen, atOnce]);
  return seen || atOnce ? children() : html`<div ref=${place} class="unseen">not drawn yet</div>`;
}
