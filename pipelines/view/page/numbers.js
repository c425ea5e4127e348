// Numbers as they are read.

/** Four significant digits, a real minus sign; "–" for what is not known. */
export function number(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en").replace("-", "−");
  const size = Math.abs(value);
  const text = size >= 1e6 || size < 1e-4 ? value.toExponential(digits - 2) : String(Number(value.toPrecision(digits)));
  return text.replaceAll("-", "−");
}

/** The same with a plus in front of what is above 0. */
export function signed(value, digits = 4) {
  return value > 0 ? `+${number(value, digits)}` : number(value, digits);
}

export function percent(share) {
  return share === null || share === undefined ? "–" : `${number(100 * share, 3)} %`;
}

export function count(amount, one, many = `${one}s`) {
  return `${number(amount)} ${amount === 1 ? one : many}`;
}

/** The nearest-rank quantile of the magnitudes; 0 of none. */
export function magnitude(values, quantile) {
  const sizes = Float64Array.from(
    values.filter((value) => !Number.isNaN(value)),
    Math.abs,
  ).sort();
  return sizes.length ? sizes[Math.max(0, Math.ceil(quantile * sizes.length) - 1)] : 0;
}
