// One group: prompt and answer, its rollouts side by side, under one setting or two.
import { html, useEffect, useMemo, useRef, useState } from "passrl/html";
import { Controls, Legend } from "passrl/controls";
import { Inspector } from "passrl/explain";
import { useChunkFocus } from "passrl/focus";
import { count, number, percent, signed } from "passrl/numbers";
import { readGroup } from "passrl/payload";
import { change, difference, limitOf, quantities, signFlips, valuesOf } from "passrl/quantities";
import { link } from "passrl/route";
import { plain } from "passrl/text";
import { Written } from "passrl/text_view";
import { Tokens, WhenSeen, chunksOf } from "passrl/tokens";

/** A group of the file, once it is unpacked. */
export function GroupView({ head, route }) {
  const [read, setRead] = useState({});
  const exists = route.id !== null && route.id < head.groups.length;
  useEffect(() => {
    let current = true;
    if (exists)
      readGroup(route.id).then(
        (group) => current && setRead({ id: route.id, group }),
        (error) => current && setRead({ id: route.id, error }),
      );
    return () => (current = false);
  }, [route.id]);
  if (!exists)
    return html`<p class="warning">
      This file has no group number ${route.id ?? ""}; its groups are 0 to ${head.groups.length - 1}.
    </p>`;
  const { group, error } = read.id === route.id ? read : {}; // what was read for the place before is not this one's
  if (error) return html`<p class="warning">Group ${route.id} cannot be read: ${error.message}</p>`;
  if (!group) return html`<p class="loading">Unpacking group ${route.id}…</p>`;
  return html`<${Opened} key=${route.id} head=${head} group=${group} route=${route} />`;
}

/** What the place's options ask for, with defaults for what they do not. */
export function choices(head, options) {
  const known = quantities(head);
  const setting = within(options.setting, head.settings.length) ?? 0;
  const against = within(options.against, head.settings.length);
  const chosen = known.find((one) => one.id === options.colour) ?? known[0];
  const minus =
    chosen.column?.kind === "logprob"
      ? known.find((one) => one.id === options.minus && one.column?.kind === "logprob" && one !== chosen)
      : undefined;
  const compared = against !== null && against !== setting && chosen.ofSetting;
  return {
    known,
    setting,
    against: against === setting ? null : against,
    chosen,
    minus,
    values: options.values === "each" ? "each" : "change",
    quantity:
      compared && options.values !== "each"
        ? change(chosen, setting, against)
        : minus
          ? difference(chosen, minus)
          : chosen,
    scores: options.scores !== "off",
  };
}

function within(text, limit) {
  return /^\d+$/.test(text ?? "") && Number(text) < limit ? Number(text) : null;
}

function Opened({ head, group, route }) {
  const asked = choices(head, route.options);
  const key = JSON.stringify(route.options);
  const settings = asked.against === null ? [asked.setting] : [asked.setting, asked.against];
  const advantage = asked.known[0];
  const limit = useMemo(() => limitOf(group, asked.quantity, settings), [group, asked.quantity.id, key]);
  const flips = useMemo(() => (settings.length > 1 ? signFlips(group, ...settings, advantage) : []), [group, key]);
  const steps = useMemo(
    () => (asked.scores ? head.columns.filter((column) => column.axis.startsWith("step/")) : []),
    [head, asked.scores],
  );
  const board = useRef(null);
  const goal = {
    row: within(route.options.rollout, group.rollouts.length),
    token: within(route.options.token, Infinity),
    setting: asked.setting,
  };
  const place = useChunkFocus({ board, group, goal, key, settings });
  const at =
    place === null
      ? goal
      : { row: place.row, token: place.token ?? chunksOf(group, place.row, place.setting)[place.chunk]?.start };
  const pane = { head, group, asked, settings, limit, flips, steps, at };
  const columns =
    place === null
      ? []
      : asked.known.map((one) => ({ ...one, values: valuesOf(group, place.row, one, place.setting) }));
  return html`<article class="group">
    <${Question} head=${head} group=${group} id=${route.id} route=${route} />
    <${Controls} head=${head} asked=${asked} route=${route} />
    <${Legend} quantity=${asked.quantity} limit=${limit} />
    ${settings.length > 1 ? html`<${Flips} ...${{ head, group, route, flips, settings }} />` : null}
    <div
      class=${settings.length > 1 ? "board paired" : "board"}
      ref=${board}
      role="group"
      aria-label="rollouts; arrow keys move between chunks"
    >
      ${group.rollouts.map((_, row) => html`<${Rollout} key=${row} row=${row} ...${pane} />`)}
    </div>
    <div class="inspector" role="status" aria-label="arithmetic of the chunk">
      <${Inspector} ...${{ head, group, place, columns }} />
    </div>
  </article>`;
}

function Question({ head, group, id, route }) {
  const options = { ...route.options, rollout: null, token: null };
  const step = (to, text, key) =>
    to >= 0 && to < head.groups.length
      ? html`<a href=${link("group", to, options)} rel=${key}>${text}</a>`
      : html`<span class="off">${text}</span>`;
  const prompt = group.array("prompt");
  const { answer } = group.head;
  return html`<header>
    <nav class="neighbours" aria-label="groups">
      ${step(id - 1, "← previous", "prev")}${" "}${step(id + 1, "next →", "next")}
    </nav>
    <h2>Group ${plain(group.head.group_id, 80)} <small>${count(group.rollouts.length, "rollout")}</small></h2>
    <section class="question" aria-label="prompt">
      <h3>Prompt</h3>
      ${prompt === null ? html`<p class="hint">not known</p>` : html`<${Written} bytes=${prompt} limit=${4000} />`}
    </section>
    <section class="question" aria-label="answer">
      <h3>Answer</h3>
      ${answer === null ? html`<p class="hint">not known</p>` : html`<${Written} text=${answer} limit=${2000} />`}
    </section>
  </header>`;
}

function Rollout({ row, ...pane }) {
  const { group, settings, asked, at } = pane;
  const label = `rollout ${row}`;
  return html`<section class="rollout" data-row=${row} aria-label=${label}>
    <${Facts} group=${group} row=${row} setting=${asked.setting} label=${label} />
    <div class="panes">
      ${settings.map(
        (setting) =>
          html`<div class="pane" data-setting=${setting} key=${setting}>
            ${settings.length > 1 ? html`<h4>${plain(pane.head.settings[setting].name, 60)}</h4>` : null}
            <${WhenSeen} at_once=${row < 4 || at.row === row}
              >${() => html`<${Body} ...${pane} row=${row} setting=${setting} />`}<//
            >
          </div>`,
      )}
    </div>
  </section>`;
}

function Body({ group, row, setting, asked, limit, flips, steps, at }) {
  const paint = useMemo(() => {
    const flipped = new Set();
    for (const run of flips)
      if (run.row === row) for (let token = run.start; token < run.end; token += 1) flipped.add(token);
    return {
      quantity: asked.quantity,
      values: valuesOf(group, row, asked.quantity, setting),
      limit,
      setting,
      flips: flipped,
    };
  }, [group, row, setting, asked.quantity.id, limit, flips]);
  const text = group.rollouts[row].text;
  if (text !== undefined && text !== null)
    return html`<p class="hint">${"No token texts are known: "}the whole text, uncoloured.</p>
      <${Written} text=${text} />`;
  return html`<${Tokens}
    group=${group}
    row=${row}
    paint=${paint}
    steps=${steps}
    reach=${at.row === row ? (at.token ?? 0) : 0}
  />`;
}

function Facts({ group, row, setting, label }) {
  const facts = group.rollouts[row];
  const made = group.head.settings[setting].rows[row];
  const shown = [
    ["sample", facts.sample_index === row ? null : facts.sample_index],
    ["reward", facts.outcome_reward === null ? null : number(facts.outcome_reward)],
    ["verdict", facts.verify_status],
    [
      "answered",
      facts.extracted_answer === null || facts.extracted_answer === undefined
        ? null
        : plain(String(facts.extracted_answer), 40),
    ],
    [
      "format",
      facts.format_reward === null || facts.format_reward === undefined ? facts.format_ok : number(facts.format_reward),
    ],
    [
      "length",
      facts.length === null
        ? null
        : `${number(facts.length)} tokens${facts.masked ? `, ${number(facts.masked)} masked` : ""}`,
    ],
    ["ended by", facts.finish_reason],
    ["path score", made.path_score === null ? null : signed(made.path_score)],
    ...Object.entries(facts.rewards ?? {}).map(([name, value]) => [
      name,
      typeof value === "number" ? number(value) : value,
    ]),
    ...Object.entries(facts.statuses ?? {}),
  ].filter(([, value]) => value !== null && value !== undefined);
  return html`<header class="facts">
    <h3>${`${label} `}${made.trainable ? null : html`<em class="warning">not trainable</em>`}</h3>
    <dl>
      ${shown.map(
        ([name, value]) =>
          html`<div>
            <dt>${plain(name, 40)}</dt>
            <dd>${typeof value === "boolean" ? String(value) : plain(String(value), 60)}</dd>
          </div>`,
      )}
    </dl>
  </header>`;
}

const LISTED = 50;

function told({ row, start, end, before, after }) {
  return `rollout ${row}, tokens ${start} to ${end - 1}: ${signed(before)} → ${signed(after)}`;
}

function Flips({ head, group, route, flips, settings }) {
  const tokens = flips.reduce((sum, run) => sum + run.end - run.start, 0);
  const counted = group.rollouts.reduce(
    (sum, _, row) => sum + (group.of("loss_mask", row)?.reduce((one, keep) => one + keep, 0) ?? group.tokens(row)),
    0,
  );
  const left = flips.length - LISTED;
  const [before, after] = settings.map((setting) => plain(head.settings[setting].name, 40));
  const share = percent(counted ? tokens / counted : 0);
  const flipped = `${count(tokens, "token")} (${share}) in ${count(flips.length, "run")}`;
  return html`<details class="flips" open=${flips.length > 0 && flips.length <= 12}>
    <summary data-flips=${tokens}>${`Sign flips: ${flipped}, from ${before} to ${after}`}</summary>
    <ol>
      ${flips.slice(0, LISTED).map(
        (run) =>
          html`<li>
            <a href=${link("group", route.id, { ...route.options, rollout: run.row, token: run.start })}
              >${told(run)}</a
            >
          </li>`,
      )}
    </ol>
    ${left > 0 ? html`<p class="hint">${number(left)} more are marked below.</p>` : null}
  </details>`;
}
