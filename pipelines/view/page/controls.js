// The switches above a group, and what its colours mean.
import { html } from "passrl/html";
import { number, signed } from "passrl/numbers";
import { STEPS, colourClass } from "passrl/palette";
import { replaceOptions } from "passrl/route";
import { plain } from "passrl/text";

function Choice({ label, name, value, options, route, none }) {
  return html`<label
    >${`${label} `}
    <select
      name=${name}
      value=${value ?? ""}
      onChange=${(event) => replaceOptions(route, { [name]: event.target.value })}
    >
      ${none === undefined ? null : html`<option value="" selected=${(value ?? null) === null}>${none}</option>`}
      ${options.map((one) => html`<option value=${one.value} selected=${one.value === value}>${one.text}</option>`)}
    </select></label
  >`;
}

/** Setting, the one it is compared with, quantity, what is subtracted from it, scores of steps. */
export function Controls({ head, asked, route }) {
  const settings = head.settings.map((setting, index) => ({ value: index, text: plain(setting.name, 60) }));
  const logprobs = asked.known.filter((one) => one.column?.kind === "logprob" && one !== asked.chosen);
  const named = (quantities) => quantities.map((one) => ({ value: one.id, text: one.label }));
  const others = settings.filter((one) => one.value !== asked.setting);
  const against = { label: "compared with", name: "against", value: asked.against, none: "nothing", options: others };
  const choice = (props) => html`<${Choice} route=${route} ...${props} />`;
  return html`<form class="controls" onSubmit=${(event) => event.preventDefault()}>
    ${settings.length > 1 ? choice({ label: "Setting", name: "setting", value: asked.setting, options: settings }) : null}
    ${settings.length > 1 ? choice(against) : null}
    ${choice({ label: "Colour", name: "colour", value: asked.chosen.id, options: named(asked.known) })}
    ${
      asked.chosen.column?.kind === "logprob" && logprobs.length
        ? choice({
            label: "minus",
            name: "minus",
            value: asked.minus?.id,
            none: "nothing",
            options: named(logprobs),
          })
        : null
    }
    ${
      asked.against !== null && asked.chosen.ofSetting
        ? choice({
            label: "show",
            name: "values",
            value: asked.values,
            options: [
              { value: "change", text: "the difference" },
              { value: "each", text: "each setting's own values" },
            ],
          })
        : null
    }
    <label
      ><input
        type="checkbox"
        name="scores"
        checked=${asked.scores}
        onChange=${(event) => replaceOptions(route, { scores: event.target.checked ? null : "off" })}
      />
      step scores</label
    >
  </form>`;
}

/** The scale of colours, from the weakest to the strongest. */
export function Legend({ quantity, limit }) {
  const sign = quantity.kind === "signed";
  const steps = Array.from({ length: 9 }, (_, index) => (sign ? (index - 4) / 4 : index / 8));
  const shown = sign ? signed : number;
  const range = quantity.tail === 1 ? "largest magnitude in this group" : "99 % of this group's tokens, then the last";
  return html`<p class="legend" aria-label="colour scale">
    <span>${quantity.label}${quantity.unit ? ` (${quantity.unit})` : ""}</span>
    <span class="scale"
      >${sign ? html`<small>${signed(-limit)}</small>` : html`<small>0</small>`}
      ${steps.map((share) => {
        const colour = colourClass(share * limit, limit, quantity.kind);
        const style = `t ${colour}${share < 0 ? " negative" : ""}`;
        return html`<i class=${style} title=${shown(share * limit)}>${"\u00a0\u00a0"}</i>`;
      })} <small>${shown(sign ? limit : quantity.column?.kind === "logprob" ? -limit : limit)}</small></span
    >
    <small>${`${range}, in ${STEPS} steps${sign ? "; negative values are underlined" : ""}; `}</small>
    <small><i class="t masked">masked</i> tokens do not count</small>
  </p>`;
}
