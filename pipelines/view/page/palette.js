// Colours of numbers: a value becomes one of a few steps, a step one colour in each scheme.
//
// Blue and orange are told apart with every common colour blindness, and tests hold the text's contrast at 4.5 : 1.
// Negative values are also underlined (page.css), so that nothing hangs on colour alone.

export const STEPS = 20;

// The colour of the last step of each end; the steps before it are mixed with the paper in sRGB.
export const COLOURS = {
  light: { paper: [255, 255, 255], positive: [106, 174, 232], negative: [244, 164, 88], amount: [176, 152, 222] },
  dark: { paper: [23, 25, 29], positive: [27, 92, 160], negative: [148, 74, 8], amount: [100, 70, 150] },
};

/** The step of a value: -STEPS to STEPS, 0 for exactly 0, null for no number. Values beyond limit saturate. */
export function step(value, limit) {
  if (value === null || Number.isNaN(value)) return null;
  if (value === 0) return 0;
  const share = Math.min(Math.abs(value) / (limit || 1), 1);
  return Math.sign(value) * Math.max(1, Math.round(share * STEPS));
}

/** The colour of a step as [red, green, blue]. kind: "signed" (around 0) or "amount" (no sign). */
export function colour(index, kind, scheme) {
  const ends = COLOURS[scheme];
  const end = kind === "amount" ? ends.amount : index < 0 ? ends.negative : ends.positive;
  const share = Math.abs(index) / STEPS;
  return ends.paper.map((paper, channel) => Math.round(paper + (end[channel] - paper) * share));
}

/** The class that gives a token the colour of its value. */
export function colourClass(value, limit, kind) {
  const index = step(value, limit);
  if (index === null) return "c-none";
  if (kind === "amount") return `c-a${Math.abs(index)}`;
  return index < 0 ? `c-n${-index}` : `c-p${index}`;
}

/** A style sheet with the classes of every step in both schemes; paper is always light. */
export function paletteSheet() {
  const rules = (scheme, root) =>
    ["a", "n", "p"].flatMap((end) =>
      Array.from({ length: STEPS + 1 }, (_, index) => {
        const rgb = colour(end === "n" ? -index : index, end === "a" ? "amount" : "signed", scheme);
        return `${root} .c-${end}${index} { background-color: ${index ? `rgb(${rgb.join(", ")})` : "transparent"}; }`;
      }),
    );
  const sheet = new CSSStyleSheet();
  const screen = [...rules("light", ""), ...rules("dark", ":root[data-scheme=dark]")];
  sheet.replaceSync(`@media screen { ${screen.join("\n")} }\n@media print { ${rules("light", "").join("\n")} }`);
  return sheet;
}
