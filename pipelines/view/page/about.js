// What the file holds and where it is from.
import { html } from "passrl/html";
import { count, number, percent } from "passrl/numbers";
import { plain } from "passrl/text";

function Setting({ setting, index, comparison }) {
  return html`<section><h3>${index}. ${setting.name} <small>${setting.source === "stored" ? "as stored" : "made from stored signals when the file was written"}, rows of dataset ${setting.dataset}</small></h3>
    ${setting.same?.length ? html`<p class="hint">The same advantages: ${setting.same.join(", ")}.</p>` : null}
    ${comparison ? html`<p>Beside setting 0, over ${count(comparison.tokens, "token")}: ${count(comparison.flips, "sign flip")} (${percent(comparison.tokens ? comparison.flips / comparison.tokens : 0)}),
      correlation ${number(comparison.correlation)}, mean difference ${number(comparison.mean_difference)}, largest ${number(comparison.largest_difference)}.</p>` : null}
    <details><summary>options</summary><pre>${plain(JSON.stringify(setting.options, null, 1)).replaceAll("↵", "\n")}</pre></details>
  </section>`;
}

/** The view at "#/about". */
export function AboutView({ head }) {
  const { sampling } = head;
  return html`<section class="about">
    <h2>Sample</h2>
    <p>${number(sampling.groups)} of ${count(sampling.of, "group")}, ${count(sampling.rollouts, "rollout")}. ${sampling.rule}</p>
    <p>${head.token_texts_note}</p>
    ${head.explain_left_out ? html`<p>${head.explain_left_out}</p>` : null}
    <h2>Datasets</h2>
    <dl>${head.datasets.map((dataset, index) => html`<div><dt>${index}. ${dataset.url}</dt>
      <dd>${count(dataset.groups, "group")}, ${count(dataset.rollouts, "rollout")}, ${count(dataset.tokens, "token")}${dataset.round === null || dataset.round === undefined ? "" : `, round ${dataset.round}`};
        content ${plain(dataset.content_digest ?? "–", 24)}, policy ${plain(dataset.policy_digest ?? "–", 24)}${dataset.imported ? `; imported: ${plain(JSON.stringify(dataset.imported), 400)}` : ""}</dd></div>`)}</dl>
    <h2>Settings</h2>
    ${head.settings.map((setting, index) => html`<${Setting} key=${index} setting=${setting} index=${index} comparison=${head.comparisons.find((one) => one.setting === index)} />`)}
    <h2>Keys</h2>
    <dl class="keys">
      <div><dt>↑ ↓, j k, Page, Home, End</dt><dd>in the list: from group to group; Enter opens</dd></div>
      <div><dt>← →</dt><dd>in a group: from chunk to chunk; Home and End: the first and the last</dd></div>
      <div><dt>↑ ↓</dt><dd>in a group: the same token of the rollout beside</dd></div>
      <div><dt>Shift + ← →</dt><dd>from token to token within the chunk</dd></div>
      <div><dt>Enter</dt><dd>in a group under two settings: the same token under the other</dd></div>
    </dl>
    <h2>This page</h2>
    <p>Written by passrl ${head.passrl}. It asks nothing of any network and runs no script but its own.</p>
    <details><summary>licences of the libraries in it: Preact (MIT), htm (Apache-2.0)</summary><pre>${document.getElementById("passrl-licences")?.textContent}</pre></details>
  </section>`;
}
