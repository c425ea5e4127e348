// How a chunk came by its advantage: the arithmetic of `passrl explain`, for one chunk.
import { html } from "passrl/html";
import { count, number, signed } from "passrl/numbers";
import { chunksOf } from "passrl/tokens";

/** Lines {what, value, how} from raw scores to the advantage, or null where the file holds no explanation. */
export function arithmetic(group, row, setting, chunk) {
  const { explain } = group.head.settings[setting];
  if (explain === null) return null;
  const read = (name) => group.of(`explain/${setting}/${name}`, row)?.[chunk] ?? null;
  const stored = {
    credit: group.of(`chunk_credits/${setting}`, row)[chunk],
    advantage: group.of(`chunk_advantages/${setting}`, row)[chunk],
    left: chunksOf(group, row, setting).length - chunk,
  };
  const facts = explain.rows[row];
  const lines =
    explain.kind === "streams" ? streamLines(explain, facts, read, stored) : passLines(explain, facts, read, stored);
  return [...lines, ...lastLines(explain, read, stored)];
}

function poolLine(pools, name) {
  const pool = pools.find((one) => one.name === name);
  return pool === undefined ? "" : `N(x) = ${pool.formula}, over ${count(pool.size, "value")} of the group`;
}

function passLines(explain, facts, read, stored) {
  const { weights } = explain;
  const lines = [];
  const score = read("score");
  if (score !== null && !Number.isNaN(score)) {
    lines.push({ what: "process score x", value: number(score), how: "stored, at the chunk's last token" });
  }
  const standardized = read("standardized");
  if (standardized !== null && !Number.isNaN(standardized)) {
    lines.push({ what: "N(x)", value: signed(standardized), how: poolLine(explain.pools, "process") });
  }
  if (facts.gated) {
    const total = Object.values(weights).reduce((sum, weight) => sum + weight, 0);
    lines.push({
      what: "gate",
      value: "closed",
      how: `the format failed: every credit is ${number(total)} × N(format), N(format) = ${signed(facts.format)}`,
    });
  } else {
    lines.push({ what: "process part", value: signed(read("process")), how: `weight ${number(weights.process)}` });
    const rewards = ["outcome", "format"]
      .filter((name) => facts[name] !== null)
      .map((name) => `${number(weights[name])} × N(${name}) = ${number(weights[name])} × ${signed(facts[name])}`);
    lines.push({ what: "rewards", value: signed(read("constant")), how: rewards.join(" + ") });
  }
  return [
    ...lines,
    { what: "credit a", value: signed(stored.credit), how: facts.gated ? "" : "process part + rewards" },
  ];
}

function streamLines(explain, facts, read, stored) {
  const lines = explain.streams.flatMap((stream, index) => {
    const y = read(`stream/${index}/y`);
    if (y === null || Number.isNaN(y)) return [];
    const here = facts.streams[index];
    const path = ["raw", "transformed", "standardized", "y"]
      .map((name) => number(read(`stream/${index}/${name}`)))
      .join(" → ");
    const gate = stream.gate === "always" ? "" : `, gate ${stream.gate} ${here.open ? "open" : "closed"}`;
    const steps = [stream.transform, `${stream.operator} (${stream.pool})`, stream.after].filter(Boolean).join(", ");
    return [
      {
        what: stream.name,
        value: signed(read(`stream/${index}/share`)),
        how: `${path} by ${steps}; weight ${number(here.arrives)}${gate}`,
      },
    ];
  });
  lines.push({ what: "sum A", value: signed(read("fused")), how: "all streams' shares" });
  return [...lines, { what: "credit a", value: signed(stored.credit), how: "of the sum" }];
}

function lastLines(explain, read, stored) {
  const rest = read("rest");
  const lines = [];
  if (rest !== null && explain.divides) {
    const divided = stored.left ** explain.k;
    lines.push({
      what: "sum to the end",
      value: signed(rest),
      how: `credits of the ${count(stored.left, "chunk")} from here on`,
    });
    lines.push({
      what: "divided by",
      value: number(divided),
      how: `(chunks left)^k = ${stored.left}^${number(explain.k)}`,
    });
  }
  return [
    ...lines,
    {
      what: "advantage",
      value: signed(stored.advantage),
      how: explain.divides ? "the quotient" : (explain.formula ?? "the credit"),
    },
  ];
}

/** The arithmetic of the chunk at `place` ({row, chunk, setting, token}), and what is stored of the token. */
export function Inspector({ head, group, place, columns }) {
  if (place === null)
    return html`<p class="hint">Point at a chunk, or focus one with the arrow keys, to see its arithmetic.</p>`;
  const { row, chunk, setting, token } = place;
  const [{ start, end }] = chunksOf(group, row, setting).slice(chunk, chunk + 1);
  const lines = arithmetic(group, row, setting, chunk);
  const facts = group.head.settings[setting].explain?.rows[row];
  const name = head.settings.length > 1 ? `${head.settings[setting].name}, ` : "";
  const stored = (array) => signed(group.of(`${array}/${setting}`, row)[chunk]);
  return html`<div class="arithmetic">
    <h3>
      ${`${name}rollout ${row}, chunk ${chunk + 1} `}
      <small>tokens ${start} to ${end - 1}${facts?.why[chunk] ? `, starts at: ${facts.why[chunk]}` : ""}</small>
    </h3>
    ${
      lines === null
        ? html`<p>${head.explain_left_out ?? "This estimator has no arithmetic that explain knows."}</p>
            <p>Stored: credit ${stored("chunk_credits")}, advantage ${stored("chunk_advantages")}.</p>`
        : html`<table>
            ${lines.map(
              (line) =>
                html`<tr>
                  <th scope="row">${line.what}</th>
                  <td class="number">${line.value}</td>
                  <td>${line.how}</td>
                </tr>`,
            )}
          </table>`
    }
    ${facts?.reasons.length ? html`<p>Not trainable: ${facts.reasons.join("; ")}.</p>` : null}
    ${facts && !facts.agrees ? html`<p class="warning">The stored values do not agree with this arithmetic.</p>` : null}
    ${token === null ? null : html`<${TokenFacts} ...${{ group, row, token, columns }} />`}
  </div>`;
}

function TokenFacts({ group, row, token, columns }) {
  const mask = group.of("loss_mask", row);
  const values = columns.map((one) => `${one.label} ${number(one.values[token])}${one.unit ? ` ${one.unit}` : ""}`);
  const masked = mask !== null && !mask[token] ? ["masked: it does not count"] : [];
  return html`<p class="token-facts">Token ${token}: ${[...masked, ...values].join(" · ")}</p>`;
}
