// Where the reader is, as the URL's fragment: "#/group/3?rollout=1&token=40". Every view can be linked to.
import { useEffect, useState } from "passrl/html";

/** {view, id, options}: "#/group/3?setting=1" is {view: "group", id: 3, options: {setting: "1"}}. */
export function parse(fragment) {
  const [path, query = ""] = fragment.replace(/^#\/?/, "").split("?", 2);
  const [view = "", id = ""] = path.split("/");
  return { view, id: /^\d+$/.test(id) ? Number(id) : null, options: Object.fromEntries(new URLSearchParams(query)) };
}

/** The fragment of a place; options that are null, undefined or "" are left out. */
export function link(view, id = null, options = {}) {
  const kept = Object.entries(options).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(kept).toString();
  return `#/${view}${id === null ? "" : `/${id}`}${query ? `?${query}` : ""}`;
}

/** Change the place's options without a new step in the history. */
export function replaceOptions(route, options) {
  history.replaceState(null, "", link(route.view, route.id, { ...route.options, ...options }));
  window.dispatchEvent(new HashChangeEvent("hashchange"));
}

/** The place now, drawn again when it changes. */
export function useRoute() {
  const [route, setRoute] = useState(() => parse(location.hash));
  useEffect(() => {
    const follow = () => setRoute(parse(location.hash));
    window.addEventListener("hashchange", follow);
    return () => window.removeEventListener("hashchange", follow);
  }, []);
  return route;
}
