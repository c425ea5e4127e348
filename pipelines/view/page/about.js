// What the file holds and where it is from.
import { html } from "passrl/html";
import { count, number, percent } from "passrl/numbers";
import { plain } from "passrl/text";

function beside({ tokens, flips, correlation, mean_difference: mean, largest_difference: largest }) {
  const share = percent(tokens ? flips / tokens : 0);
  return (
    `Beside setting 0, over ${count(tokens, "token")}: ${count(flips, "sign flip")} (${share}), ` +
    `correlation ${number(correlation)}, mean difference ${number(mean)}, largest ${number(largest)}.`
  );
}

function Setting({ setting, index, comparison }) {
  const made = setting.source === "stored" ? "as stored" : "made from stored signals when the file was written";
  return html`<section>
    <h3>
      ${`${index}. ${setting.name} `}
      <small>${`${made}, rows of dataset ${setting.dataset}`}</small>
    </h3>
    ${setting.same?.length ? html`<p class="hint">The same advantages: ${setting.same.join(", ")}.</p>` : null}
    ${comparison ? html`<p>${beside(comparison)}</p>` : null}
    <details>
      <summary>options</summary>
      <pre>${plain(JSON.stringify(setting.options, null, 1)).replaceAll("↵", "\n")}</pre>
    </details>
  </section>`;
}

function Dataset({ dataset, index }) {
  const facts = [
    count(dataset.groups, "group"),
    count(dataset.rollouts, "rollout"),
    count(dataset.tokens, "token"),
    dataset.round === null || dataset.round === undefined ? null : `round ${dataset.round}`,
    `content ${plain(dataset.content_digest ?? "–", 24)}`,
    `policy ${plain(dataset.policy_digest ?? "–", 24)}`,
    dataset.imported ? `imported: ${plain(JSON.stringify(dataset.imported), 400)}` : null,
  ];
  return html`<div>
    <dt>${index}. ${dataset.url}</dt>
    <dd>${facts.filter((fact) => fact !== null).join(", ")}</dd>
  </div>`;
}

/** The view at "#/about". */
export function AboutView({ head }) {
  const { sampling } = head;
  const shown = `${number(sampling.groups)} of ${count(sampling.of, "group")}, ${count(sampling.rollouts, "rollout")}`;
  return html`<section class="about">
    <h2>Sample</h2>
    <p>${`${shown}: ${sampling.rule}`}</p>
    <p>${head.token_texts_note}</p>
    ${head.explain_left_out ? html`<p>${head.explain_left_out}</p>` : null}
    <h2>Datasets</h2>
    <dl>${head.datasets.map((dataset, index) => html`<${Dataset} key=${index} ...${{ dataset, index }} />`)}</dl>
    <h2>Settings</h2>
    ${head.settings.map((setting, index) => {
      const comparison = head.comparisons.find((one) => one.setting === index);
      return html`<${Setting} key=${index} ...${{ setting, index, comparison }} />`;
    })}
    <h2>Keys</h2>
    <dl class="keys">
      <div>
        <dt>↑ ↓, j k, Page, Home, End</dt>
        <dd>in the list: from group to group; Enter opens</dd>
      </div>
      <div>
        <dt>← →</dt>
        <dd>in a group: from chunk to chunk; Home and End: the first and the last</dd>
      </div>
      <div>
        <dt>↑ ↓</dt>
        <dd>in a group: the same token of the rollout beside</dd>
      </div>
      <div>
        <dt>Shift + ← →</dt>
        <dd>from token to token within the chunk</dd>
      </div>
      <div>
        <dt>Enter</dt>
        <dd>in a group under two settings: the same token under the other</dd>
      </div>
    </dl>
    <h2>This page</h2>
    <p>Written by passrl ${head.passrl}. It asks nothing of any network and runs no script but its own.</p>
    <details>
      <summary>licences of the libraries in it: Preact (MIT), htm (Apache-2.0)</summary>
      <pre>${document.getElementById("passrl-licences")?.textContent}</pre>
    </details>
  </section>`;
}
