// The page: what is shown, by the URL's fragment.
import { AboutView } from "passrl/about";
import { GroupView } from "passrl/group";
import { GroupsView } from "passrl/groups";
import { html, render, useLayoutEffect, useState } from "passrl/html";
import { number } from "passrl/numbers";
import { OffendersView } from "passrl/offenders";
import { paletteSheet } from "passrl/palette";
import { readHead } from "passrl/payload";
import { link, useRoute } from "passrl/route";
import { RunView } from "passrl/run_view";
import { plain } from "passrl/text";

const VIEWS = [
  { id: "groups", label: "Groups", show: GroupsView, there: () => true },
  { id: "offenders", label: "Worst offenders", show: OffendersView, there: (head) => head.offenders.length > 0 },
  { id: "run", label: "Run", show: RunView, there: (head) => head.run !== null },
  { id: "about", label: "About", show: AboutView, there: () => true },
];
const SCHEMES = ["auto", "light", "dark"];

// file: URLs may be denied a storage; then the choice lasts as long as the page.
function remembered() {
  try {
    return localStorage.getItem("passrl-scheme") ?? "auto";
  } catch {
    return "auto";
  }
}

function remember(scheme) {
  try {
    localStorage.setItem("passrl-scheme", scheme);
  } catch {
    return;
  }
}

function SchemeSwitch() {
  const [scheme, setScheme] = useState(remembered);
  useLayoutEffect(() => {
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const apply = () =>
      (document.documentElement.dataset.scheme = scheme === "auto" ? (dark.matches ? "dark" : "light") : scheme);
    apply();
    remember(scheme);
    dark.addEventListener("change", apply);
    return () => dark.removeEventListener("change", apply);
  }, [scheme]);
  return html`<label class="scheme"
    >${"Colours "}
    <select name="scheme" onChange=${(event) => setScheme(event.target.value)}>
      ${SCHEMES.map((one) => html`<option value=${one} selected=${one === scheme}>${one}</option>`)}
    </select></label
  >`;
}

function Views({ head, view }) {
  const there = VIEWS.filter((one) => one.there(head));
  const current = (one) => (one.id === view ? "page" : null);
  return html`<nav aria-label="views">
    ${there.map((one) => html`<a key=${one.id} href=${link(one.id)} aria-current=${current(one)}>${one.label}</a>`)}
  </nav>`;
}

function Sample({ groups, of, rollouts, rule }) {
  return html`<section class="sampling" aria-label="sample">
    ${`${number(groups)} of ${number(of)} groups, ${number(rollouts)} rollouts: ${rule}`}
  </section>`;
}

function Page({ head }) {
  const route = useRoute();
  const alone = head.mode === "group";
  const view = alone ? "group" : route.view || "groups";
  const found = VIEWS.find((one) => one.id === view && one.there(head));
  const shown =
    view === "group"
      ? html`<${GroupView} head=${head} route=${alone ? { ...route, view: "group", id: 0 } : route} />`
      : html`<${(found ?? VIEWS[0]).show} head=${head} route=${found ? route : { ...route, view: "groups" }} />`;
  return html`<header class="top">
      <a class="skip" href=${link(view, route.id, route.options)} onClick=${toMain}>to the content</a>
      <h1>${plain(head.title, 120)}</h1>
      ${alone ? null : html`<${Views} head=${head} view=${view === "group" ? "groups" : view} />`}
      <${SchemeSwitch} />
    </header>
    ${alone ? null : html`<${Sample} ...${head.sampling} />`}
    <main id="content" tabindex="-1">${shown}</main>`;
}

function toMain(event) {
  event.preventDefault();
  document.getElementById("content").focus();
}

function start() {
  const root = document.getElementById("passrl-page");
  root.replaceChildren();
  document.adoptedStyleSheets = [paletteSheet()];
  try {
    const head = readHead();
    document.title = `${plain(head.title, 120)} · passrl`;
    render(html`<${Page} head=${head} />`, root);
  } catch (error) {
    render(html`<p class="warning" role="alert">This page cannot be shown: ${error.message}</p>`, root);
  }
}

start();
