// The run: what became of it over rounds and steps.
import { Histogram, LineChart } from "passrl/chart";
import { html } from "passrl/html";
import { number } from "passrl/numbers";
import { plain } from "passrl/text";

const OF_ROUNDS = [
  { name: "reward", title: "mean outcome reward" },
  { name: "mean_length", title: "mean length (tokens)" },
  { name: "entropy", title: "entropy (nats per token)" },
  { name: "kl", title: "KL to the reference policy (nats per token)" },
  { name: "behavior_kl", title: "KL to the sampler (nats per token)" },
];
const OF_STEPS = {
  kl: "KL to the reference policy (nats per token)",
  behavior_kl: "KL to the sampler (nats per token)",
  entropy: "entropy (nats per token)",
  grad_norm: "norm of the gradient",
  advantage_mean: "mean advantage",
  clip_low: "tokens clipped below (share)",
  clip_high: "tokens clipped above (share)",
  rejected: "tokens rejected (share)",
};

const known = (value) => value !== null && value !== undefined;

/** The charts of a run: [{title, xLabel, series, named}], only those that have points. */
export function charts(run) {
  const place = (round) => round.round ?? Math.min(...run.rounds.map((one) => one.round).filter(known)) - 1;
  const named = new Map(run.rounds.map((round) => [place(round), plain(round.name, 20)]));
  const benchmarks = [...new Set(run.rounds.flatMap((round) => Object.keys(round.pass_at_1)))];
  const passes = benchmarks.map((name) => ({
    name: plain(name, 40),
    points: run.rounds
      .filter((round) => known(round.pass_at_1[name]?.value))
      .map((round) => ({
        x: place(round),
        y: round.pass_at_1[name].value,
        error: round.pass_at_1[name].standard_error,
      })),
  }));
  const rounds = OF_ROUNDS.map(({ name, title }) => ({
    title,
    series: [
      {
        name: title,
        points: run.rounds.filter((round) => known(round[name])).map((round) => ({ x: place(round), y: round[name] })),
      },
    ],
  }));
  const metrics = Object.keys(run.steps ?? {}).filter((name) => name !== "update" && name !== "round");
  const steps = metrics.map((name) => ({
    title: OF_STEPS[name] ?? plain(name, 40),
    xLabel: "update",
    series: [
      {
        name: plain(name, 40),
        points: run.steps[name]
          .map((y, index) => ({ x: run.steps.update[index], y }))
          .filter((point) => known(point.y)),
      },
    ],
  }));
  return {
    rounds: [{ title: "pass@1 (± standard error)", series: passes }, ...rounds]
      .map((chart) => ({ ...chart, xLabel: "round", named }))
      .map(withPoints)
      .filter(Boolean),
    steps: steps.map(withPoints).filter(Boolean),
  };
}

function withPoints(chart) {
  const series = chart.series.filter((one) => one.points.length);
  return series.length ? { ...chart, series } : null;
}

/** The view at "#/run". */
export function RunView({ head }) {
  const { run } = head;
  if (run === null)
    return html`<p class="hint">
      This file was made from a dataset, not from a run, so there is nothing over rounds and steps.
    </p>`;
  const found = charts(run);
  const names = [...new Set(run.histograms.map((one) => one.name))];
  return html`<section class="run">
    ${run.note ? html`<p class="hint">${run.note}</p>` : null}
    <h2>Over rounds</h2>
    ${found.rounds.length ? null : html`<p class="hint">Nothing is recorded.</p>`}
    <div class="charts">${found.rounds.map((chart) => html`<${LineChart} key=${chart.title} ...${chart} />`)}</div>
    <h2>Over updates</h2>
    ${found.steps.length ? null : html`<p class="hint">Nothing is recorded: the run has not trained.</p>`}
    <div class="charts">${found.steps.map((chart) => html`<${LineChart} key=${chart.title} ...${chart} />`)}</div>
    ${names.map((name) => {
      const all = run.histograms.filter((one) => one.name === name);
      return html`<${Histograms} key=${name} name=${name} all=${all} />`;
    })}
  </section>`;
}

function Histograms({ name, all }) {
  const most = Math.max(...all.flatMap((one) => one.counts));
  return html`<h2>${name === "length" ? "Lengths" : name === "advantage" ? "Advantages" : name}</h2>
    <p class="hint">Of all rows, not of the sample; the axes are the same in every round.</p>
    <div class="charts">
      ${all.map((one) => {
        const title = `round ${number(one.round)}`;
        return html`<${Histogram} key=${one.round} ...${one} title=${title} most=${most} />`;
      })}
    </div>`;
}
