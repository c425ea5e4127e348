// The list of groups: sorted, filtered, with small bars, and walked with the arrow keys.
import { html, useEffect, useMemo, useRef, useState } from "passrl/html";
import { number, percent, signed } from "passrl/numbers";
import { link, replaceOptions } from "passrl/route";
import { plain } from "passrl/text";

const SHOWN = 200; // rows drawn at once
const DECIDED = new Set(["ok", "wrong"]);

// Verdicts that say neither right nor wrong: nothing was parsed, the program was stopped, ...
const failed = (group) =>
  Object.entries(group.verdicts).reduce((sum, [status, many]) => sum + (DECIDED.has(status) ? 0 : many), 0);

const COLUMNS = [
  { id: "order", label: "#", value: (group) => group.index, show: (group) => number(group.index) },
  { id: "group", label: "group", value: (group) => group.id, show: (group) => plain(group.id, 40), text: true },
  {
    id: "outcome",
    label: "outcome",
    unit: "mean",
    value: (group) => group.outcome,
    bar: [0, 1],
    title: "mean outcome reward of the group",
  },
  {
    id: "length",
    label: "length",
    unit: "tokens",
    value: (group) => group.mean_length,
    title: "mean length of the rollouts",
  },
  {
    id: "spread",
    label: "advantages",
    unit: "std",
    value: (group) => group.advantage_std,
    title: "standard deviation of the advantages over the tokens that count",
  },
  {
    id: "zero",
    label: "zero",
    unit: "of tokens",
    value: (group) => group.zero_advantage,
    bar: [0, 1],
    show: (group) => percent(group.zero_advantage),
    title: "share of tokens whose advantage is 0",
  },
  {
    id: "truncated",
    label: "truncated",
    unit: "rollouts",
    value: (group) => group.truncated,
    title: "rollouts that were cut at the longest length",
  },
  {
    id: "verdicts",
    label: "verdicts",
    unit: "sorted by failed ones",
    value: failed,
    show: verdicts,
    title: "rollouts by verdict; failed are those neither ok nor wrong",
  },
];

function verdicts(group) {
  return (
    Object.entries(group.verdicts)
      .map(([status, many]) => `${number(many)} ${plain(status, 20)}`)
      .join(", ") || "–"
  );
}

const KINDS = [
  { id: "", label: "all groups", keep: () => true },
  { id: "single", label: "single outcome: all equal", keep: (group) => group.single_outcome === true },
  { id: "mixed", label: "outcomes differ", keep: (group) => group.single_outcome === false },
  { id: "truncated", label: "with truncated rollouts", keep: (group) => group.truncated > 0 },
  { id: "failed", label: "with failed verdicts", keep: (group) => failed(group) > 0 },
  { id: "untrainable", label: "with rollouts not trainable", keep: (group) => group.untrainable > 0 },
  { id: "flips", label: "with sign flips between settings", keep: (group) => group.flips.some((flips) => flips > 0) },
];

/** Groups that the options keep, in the order they ask for; what is not known comes last in both directions. */
export function listed(groups, { sort = "order", desc, find = "", show = "" }) {
  const column = COLUMNS.find((one) => one.id === sort) ?? COLUMNS[0];
  const kind = KINDS.find((one) => one.id === show) ?? KINDS[0];
  const sought = find.toLowerCase();
  const kept = groups.filter((group) => kind.keep(group) && group.id.toLowerCase().includes(sought));
  const direction = desc === "1" ? -1 : 1;
  const order = (one, other) => {
    const [a, b] = [column.value(one), column.value(other)];
    if (a === null || b === null) return (a === null) - (b === null);
    return direction * (column.text ? a.localeCompare(b, "en", { numeric: true }) : a - b) || one.index - other.index;
  };
  return kept.sort(order);
}

/** The view at "#/groups". */
export function GroupsView({ head, route }) {
  const groups = useMemo(() => head.groups.map((group, index) => ({ ...group, index })), [head]);
  const rows = listed(groups, route.options);
  const [shown, setShown] = useState(SHOWN);
  const [at, setAt] = useState(0);
  const body = useRef(null);
  const columns = COLUMNS.filter((column) => column.text || groups.some((group) => column.value(group) !== null));
  const largest = Object.fromEntries(
    columns.map((column) => [
      column.id,
      groups.reduce((most, group) => Math.max(most, Math.abs(column.value(group)) || 0), 0),
    ]),
  );
  const current = Math.min(at, Math.max(rows.length - 1, 0));
  useEffect(() => setAt(0), [route.options.sort, route.options.desc, route.options.find, route.options.show]);
  const go = (to) => {
    const next = Math.max(0, Math.min(rows.length - 1, to));
    if (next >= shown) setShown(next + SHOWN);
    setAt(next);
    requestAnimationFrame(() => body.current?.querySelector(`[data-place="${next}"] a`)?.focus());
  };
  return html`<section class="groups">
    <${Filters} route=${route} head=${head} enter=${() => go(0)} />
    <p role="status">${number(rows.length)} of ${number(groups.length)} groups</p>
    <table onKeyDown=${(event) => walk(event, { at: current, last: rows.length - 1, go })}>
      <caption class="unseen-text">
        Groups; arrow keys move, Enter opens
      </caption>
      <thead>
        <tr>
          ${columns.map((column) => html`<${Heading} key=${column.id} column=${column} route=${route} />`)}
        </tr>
      </thead>
      <tbody ref=${body}>
        ${rows.slice(0, shown).map((group, place) => {
          const given = { group, place, columns, largest, current: place === current, onFocus: () => setAt(place) };
          return html`<${Row} key=${group.index} ...${given} />`;
        })}
      </tbody>
    </table>
    ${rows.length > shown ? html`<${More} left=${rows.length - shown} more=${() => setShown(shown + SHOWN)} />` : null}
  </section>`;
}

const More = ({ left, more }) => html`<button class="more" onClick=${more}>${number(left)} more groups</button>`;

function Filters({ route, head, enter }) {
  const set = (name) => (event) => replaceOptions(route, { [name]: event.target.value });
  const kinds = KINDS.filter((kind) => kind.id !== "flips" || head.settings.length > 1);
  return html`<form
    class="controls"
    role="search"
    onSubmit=${(event) => {
      event.preventDefault();
      enter();
    }}
  >
    <label
      >${"Find "}
      <input
        type="search"
        name="find"
        value=${route.options.find ?? ""}
        onInput=${set("find")}
        placeholder="part of a group's name"
    /></label>
    <label
      >${"Show "}
      <select name="show" onChange=${set("show")}>
        ${kinds.map((kind) => {
          const selected = kind.id === (route.options.show ?? "");
          return html`<option value=${kind.id} selected=${selected}>${kind.label}</option>`;
        })}
      </select></label
    >
  </form>`;
}

function Heading({ column, route }) {
  const sorted = (route.options.sort ?? "order") === column.id;
  const falling = sorted && route.options.desc === "1";
  // Numbers are first asked for from the largest on, names from A.
  const next = sorted ? (falling ? null : "1") : column.text || column.id === "order" ? null : "1";
  return html`<th
    scope="col"
    aria-sort=${sorted ? (falling ? "descending" : "ascending") : "none"}
    title=${column.title}
  >
    <button onClick=${() => replaceOptions(route, { sort: column.id, desc: next })}>
      ${column.label}${sorted ? (falling ? " ↓" : " ↑") : ""}
    </button>
    ${column.unit ? html`<small>${column.unit}</small>` : null}
  </th>`;
}

function Row({ group, place, columns, largest, current, onFocus }) {
  const cell = (column) => {
    const value = column.value(group);
    if (column.id === "group") {
      const notes = [
        group.single_outcome ? "single outcome" : null,
        group.untrainable ? `${number(group.untrainable)} not trainable` : null,
      ].filter(Boolean);
      return html`<th scope="row">
        <a href=${link("group", group.index)} tabindex=${current ? 0 : -1} onFocus=${onFocus}>${column.show(group)}</a>
        ${notes.map((note) => html`<small class="tag">${note}</small> `)}
      </th>`;
    }
    const shown = column.show ? column.show(group) : number(value);
    if (column.id === "verdicts") return html`<td>${shown}</td>`;
    if (column.id === "order") return html`<td class="number">${shown}</td>`;
    const range =
      column.id === "spread" && value !== null
        ? `${signed(group.advantage_min, 3)} to ${signed(group.advantage_max, 3)}`
        : undefined;
    return html`<td class="number" title=${range}>
      <${Bar} value=${value} most=${column.bar ? column.bar[1] : largest[column.id]} /><span>${shown}</span>
    </td>`;
  };
  return html`<tr data-place=${place} data-group=${group.index} class=${current ? "current" : ""}>
    ${columns.map(cell)}
  </tr>`;
}

/** A small bar beside a number that says the same. */
function Bar({ value, most }) {
  const width = value === null || !(most > 0) ? 0 : Math.min(1, Math.abs(value) / most) * 40;
  return html`<svg class="bar" width="40" height="8" aria-hidden="true">
    <rect class="ground" width="40" height="8" />
    <rect class="filled" width=${width} height="8" />
  </svg>`;
}

function walk(event, { at, last, go }) {
  const steps = {
    ArrowDown: at + 1,
    j: at + 1,
    ArrowUp: at - 1,
    k: at - 1,
    Home: 0,
    End: last,
    PageDown: at + 20,
    PageUp: at - 20,
  };
  if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("th[aria-sort]"))
    return;
  event.preventDefault();
  go(steps[event.key]);
}
