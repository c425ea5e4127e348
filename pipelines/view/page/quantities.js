// What tokens can be coloured by, and its values token by token.
import { magnitude } from "passrl/numbers";

// The chunk's own numbers, which there are in every setting.
const OF_CHUNKS = [
  { id: "advantage", array: "chunk_advantages", label: "advantage" },
  { id: "credit", array: "chunk_credits", label: "credit" },
];
// Log-probabilities and their differences have long tails: their colours are spread over 99 % of them.
const TAILED = 0.99;

/** The quantities of a file: {id, label, kind: "signed" | "amount", ofSetting, column}. */
export function quantities(head) {
  const stored = head.columns.map((column) => ({
    id: column.name,
    label: column.label,
    unit: column.unit,
    kind: column.kind === "logprob" || column.kind === "statistic" ? "amount" : "signed",
    tail: column.kind === "logprob" || column.kind === "statistic" ? TAILED : 1,
    ofSetting: false,
    column,
  }));
  return [...OF_CHUNKS.map((one) => ({ ...one, kind: "signed", tail: 1, ofSetting: true })), ...stored];
}

/** Of two log-probabilities the difference, as a quantity of its own. */
export function difference(one, other) {
  return {
    id: `${one.id}-${other.id}`,
    label: `${one.label} − ${other.label}`,
    unit: one.unit,
    kind: "signed",
    tail: TAILED,
    ofSetting: false,
    minus: [one, other],
  };
}

/** A quantity under one setting less that under another. */
export function change(quantity, setting, against) {
  return {
    ...quantity,
    id: `${quantity.id}:${against}-${setting}`,
    label: `change of ${quantity.label}`,
    between: [setting, against],
  };
}

const kept = new WeakMap();

/** The quantity of each token of rollout `row` under `setting`; NaN where a token has none. */
export function valuesOf(group, row, quantity, setting) {
  if (!kept.has(group)) kept.set(group, new Map());
  const key = `${quantity.id}/${quantity.ofSetting ? setting : ""}/${row}`;
  const values = kept.get(group);
  if (!values.has(key)) values.set(key, work(group, row, quantity, setting));
  return values.get(key);
}

function work(group, row, quantity, setting) {
  if (quantity.between) {
    const [before, after] = quantity.between.map((one) =>
      valuesOf(group, row, { ...quantity, id: quantity.array, between: undefined }, one),
    );
    return after.map((value, token) => value - before[token]);
  }
  if (quantity.minus) {
    const [one, other] = quantity.minus.map((part) => valuesOf(group, row, part, setting));
    return one.map((value, token) => value - other[token]);
  }
  const count = group.tokens(row);
  if (quantity.ofSetting) {
    return spread(count, group.of(`chunk_ends/${setting}`, row), group.of(`${quantity.array}/${setting}`, row));
  }
  const { name, axis } = quantity.column;
  if (axis === "token") return group.of(name, row) ?? new Float32Array(count).fill(NaN);
  return spread(count, group.of(`ends:${stepsOf(axis)}`, row), group.of(name, row));
}

/** "step/process_scores" is the axis of the column process_scores. */
export function stepsOf(axis) {
  return axis.slice("step/".length);
}

// One value a run of tokens becomes one a token; NaN after the last run.
function spread(count, ends, values) {
  const spreadOut = new Float32Array(count).fill(NaN);
  if (ends === null || values === null) return spreadOut;
  let start = 0;
  ends.forEach((end, index) => {
    spreadOut.fill(values[index], start, end);
    start = end;
  });
  return spreadOut;
}

/** The magnitude at which colours are strongest: over the tokens of the group that count, under the settings shown. */
export function limitOf(group, quantity, settings) {
  const counted = [];
  for (const setting of quantity.ofSetting && !quantity.between ? settings : [settings[0]]) {
    group.rollouts.forEach((_, row) => {
      const mask = group.of("loss_mask", row);
      valuesOf(group, row, quantity, setting).forEach((value, token) => {
        if (mask === null || mask[token]) counted.push(value);
      });
    });
  }
  return magnitude(counted, quantity.tail);
}

/** Whether the rollout takes part in training under a setting. */
export function trains(group, row, setting) {
  return group.head.settings[setting].rows[row].trainable;
}

/** Runs of tokens whose advantage has another sign under another setting: [{row, start, end, before, after}]. */
export function signFlips(group, setting, against, advantage) {
  const runs = [];
  group.rollouts.forEach((_, row) => {
    if (!trains(group, row, setting) || !trains(group, row, against)) return;
    const [before, after] = [setting, against].map((one) => valuesOf(group, row, advantage, one));
    const mask = group.of("loss_mask", row);
    for (let token = 0; token < before.length; token += 1) {
      if (
        (mask !== null && !mask[token]) ||
        before[token] * after[token] >= 0 ||
        Number.isNaN(before[token] * after[token])
      )
        continue;
      const last = runs.at(-1);
      const joins =
        last?.row === row && last.end === token && last.before === before[token] && last.after === after[token];
      if (joins) last.end += 1;
      else runs.push({ row, start: token, end: token + 1, before: before[token], after: after[token] });
    }
  });
  return runs;
}
