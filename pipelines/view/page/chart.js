// Lines and histograms in SVG. Series differ in colour, dashes and marks; each chart has its numbers as a table too.
import { html } from "passrl/html";
import { number } from "passrl/numbers";

const [WIDTH, HEIGHT] = [420, 220];
const EDGE = { left: 52, right: 26, top: 10, bottom: 34 };
const LOOKS = 6; // .series-0 to .series-5 in page.css
const MARKED = 60; // points of a line at most that each have a mark

/** Round numbers from low to high, about `wanted` of them. */
export function ticks(low, high, wanted = 5) {
  if (!(high > low)) return [low];
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, index) =>
    Number(((first + index) * step).toPrecision(12)),
  );
}

function scale([low, high], [from, to]) {
  const span = high - low || 1;
  return (value) => from + ((value - low) / span) * (to - from);
}

function Axes({ x, y, xs, ys, xLabel, named }) {
  return html`<g class="axes">
    ${ys.map(
      (value) =>
        html`<g key=${`y${value}`}>
          <line class="grid" x1=${EDGE.left} x2=${WIDTH - EDGE.right} y1=${y(value)} y2=${y(value)} />
          <text x=${EDGE.left - 6} y=${y(value) + 4} text-anchor="end">${number(value, 3)}</text>
        </g>`,
    )}
    ${xs.map(
      (value) =>
        html`<text key=${`x${value}`} x=${x(value)} y=${HEIGHT - EDGE.bottom + 16} text-anchor="middle">
          ${named?.get(value) ?? number(value, 3)}
        </text>`,
    )}
    <line x1=${EDGE.left} x2=${WIDTH - EDGE.right} y1=${HEIGHT - EDGE.bottom} y2=${HEIGHT - EDGE.bottom} />
    <text x=${(EDGE.left + WIDTH - EDGE.right) / 2} y=${HEIGHT - 4} text-anchor="middle">${xLabel}</text>
  </g>`;
}

function Key({ series }) {
  return html`<ul class="key">
    ${series.map(
      (one, index) =>
        html`<li key=${one.name}>
          <svg width="26" height="10" aria-hidden="true">
            <line class=${`series-${index % LOOKS}`} x1="0" x2="26" y1="5" y2="5" />
          </svg>
          ${one.name}
        </li>`,
    )}
  </ul>`;
}

function Numbers({ title, xLabel, series, named }) {
  const xs = [...new Set(series.flatMap((one) => one.points.map((point) => point.x)))].sort((a, b) => a - b);
  const values = series.map((one) => new Map(one.points.map((point) => [point.x, point])));
  const cell = (point) =>
    point === undefined ? "–" : `${number(point.y)}${point.error ? ` ± ${number(point.error, 2)}` : ""}`;
  return html`<details class="numbers">
    <summary>numbers</summary>
    <table>
      <caption class="unseen-text">
        ${title}
      </caption>
      <thead>
        <tr>
          <th scope="col">${xLabel}</th>
          ${series.map((one) => html`<th scope="col">${one.name}</th>`)}
        </tr>
      </thead>
      <tbody>
        ${xs.map(
          (x) =>
            html`<tr>
              <th scope="row">${named?.get(x) ?? number(x)}</th>
              ${values.map((found) => html`<td class="number">${cell(found.get(x))}</td>`)}
            </tr>`,
        )}
      </tbody>
    </table>
  </details>`;
}

function Line({ points, x, y, label }) {
  const errors = points.filter((point) => point.error);
  const marked = points.length <= MARKED ? points : [];
  return html`<polyline
      points=${points.map((point) => `${x(point.x).toFixed(1)},${y(point.y).toFixed(1)}`).join(" ")}
    />
    ${errors.map((point) => {
      const ends = { y1: y(point.y - point.error), y2: y(point.y + point.error) };
      return html`<line class="error" x1=${x(point.x)} x2=${x(point.x)} ...${ends} />`;
    })}
    ${marked.map(
      (point) =>
        html`<circle cx=${x(point.x)} cy=${y(point.y)} r="3">
          <title>${label(point)}</title>
        </circle>`,
    )}`;
}

/** series: [{name, points: [{x, y, error}]}], each with at least one point; named: Map of x to its name. */
export function LineChart({ title, xLabel, series, named }) {
  const points = series.flatMap((one) => one.points);
  const xs = points.map((point) => point.x);
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  const bounds = points.flatMap((point) => [point.y - (point.error ?? 0), point.y + (point.error ?? 0)]);
  const [low, high] = [Math.min(...bounds), Math.max(...bounds)];
  const pad = (high - low || Math.abs(high) || 1) * 0.06;
  const x = scale([left, right], [EDGE.left + 8, WIDTH - EDGE.right - 8]);
  const y = scale([low - pad, high + pad], [HEIGHT - EDGE.bottom, EDGE.top]);
  const at = (point) => named?.get(point.x) ?? number(point.x);
  const course = (one) => `${one.name} from ${number(one.points[0].y)} to ${number(one.points.at(-1).y)}`;
  const marks = ticks(left, right).filter((value) => named === undefined || named.has(value));
  return html`<figure class="chart">
    <figcaption>${title}</figcaption>
    <svg viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label=${`${title}: ${series.map(course).join("; ")}`}>
      <${Axes} x=${x} y=${y} xs=${marks} ys=${ticks(low - pad, high + pad, 4)} xLabel=${xLabel} named=${named} />
      ${series.map(
        (one, index) =>
          html`<g key=${one.name} class=${`series-${index % LOOKS}`}>
            <${Line}
              points=${one.points}
              x=${x}
              y=${y}
              label=${(point) => `${one.name}, ${at(point)}: ${number(point.y)}`}
            />
          </g>`,
      )}
    </svg>
    ${series.length > 1 ? html`<${Key} series=${series} />` : null}
    <${Numbers} ...${{ title, xLabel, series, named }} />
  </figure>`;
}

/** edges: B + 1 numbers, the bounds of the bins; counts: B. most: the highest count that the axis holds. */
export function Histogram({ title, unit, edges, counts, most }) {
  const x = scale([edges[0], edges.at(-1)], [EDGE.left, WIDTH - EDGE.right]);
  const y = scale([0, most || 1], [HEIGHT - EDGE.bottom, EDGE.top]);
  const total = counts.reduce((sum, one) => sum + one, 0);
  return html`<figure class="chart">
    <figcaption>${title}</figcaption>
    <svg
      viewBox=${`0 0 ${WIDTH} ${HEIGHT}`}
      role="img"
      aria-label=${`${title}: ${number(total)} values from ${number(edges[0])} to ${number(edges.at(-1))} ${unit}`}
    >
      <${Axes} x=${x} y=${y} xs=${ticks(edges[0], edges.at(-1))} ys=${ticks(0, most || 1, 4)} xLabel=${unit} />
      ${counts.map((many, bin) => {
        const [left, right] = [edges[bin], edges[bin + 1]];
        const width = Math.max(0.5, x(right) - x(left) - 1);
        return html`<rect class="bin" x=${x(left) + 0.5} width=${width} y=${y(many)} height=${y(0) - y(many)}>
          <title>${number(left)} to ${number(right)}: ${number(many)}</title>
        </rect>`;
      })}
    </svg>
  </figure>`;
}
