// The worst offenders: lists, worst first, each row a link to the tokens it is about.
import { html } from "passrl/html";
import { number } from "passrl/numbers";
import { link } from "passrl/route";
import { plain } from "passrl/text";

/** Where an offender is seen: its tokens, under its setting; a sign flip beside the stored setting. */
export function placeOf(list, row) {
  const flips = list.kind === "sign_flip";
  return link("group", row.group, {
    rollout: row.rollout,
    token: row.start,
    setting: flips ? 0 : list.setting || null,
    against: flips ? list.setting : null,
  });
}

function where(head, { group, rollout, chunk }) {
  return `${plain(head.groups[group].id, 40)}, rollout ${rollout}${chunk === null ? "" : `, chunk ${chunk + 1}`}`;
}

/** The view at "#/offenders". */
export function OffendersView({ head }) {
  return html`<section class="offenders">
    ${head.offenders.length ? null : html`<p class="hint">This file lists none.</p>`}
    ${head.offenders.map(
      (list) =>
        html`<section key=${list.title}>
          <h2>
            ${`${list.title} `}
            ${head.settings.length > 1 ? html`<small>${plain(head.settings[list.setting].name, 60)}</small>` : null}
          </h2>
          <p class="hint">${list.rule}</p>
          ${
            list.rows.length
              ? html`<table>
                  <thead>
                    <tr>
                      <th scope="col">where</th>
                      <th scope="col">at tokens</th>
                      <th scope="col">${list.unit || "value"}</th>
                      <th scope="col">note</th>
                    </tr>
                  </thead>
                  <tbody>
                    ${list.rows.map(
                      (row) =>
                        html`<tr>
                          <th scope="row">
                            <a href=${placeOf(list, row)}>${where(head, row)}</a>
                          </th>
                          <td class="number">${number(row.start)}–${number(Math.max(row.start, row.end - 1))}</td>
                          <td class="number">${number(row.value)}</td>
                          <td>${plain(row.note ?? "", 160)}</td>
                        </tr>`,
                    )}
                  </tbody>
                </table>`
              : null
          }
        </section>`,
    )}
  </section>`;
}
