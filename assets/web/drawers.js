// The drawers below the story: tabs that open one at a time.

import { order } from "./commands.js";
import { all, byId } from "./dom.js";
import { showStories } from "./story_list.js";

const DRAWN_BY_GRADIO = ["settings", "report"];
const WITHOUT_SERVER = [...DRAWN_BY_GRADIO, "keys"];
const tabs = () => all(".jet-tabs [role=tab]");

/** Opens a drawer, and closes the others. @param {string} name */
export function openDrawer(name) {
  for (const tab of tabs()) {
    const chosen = tab.dataset.tab === name;
    tab.setAttribute("aria-selected", `${chosen}`);
    tab.tabIndex = chosen ? 0 : -1;
    byId(tab.getAttribute("aria-controls") ?? "").hidden = !chosen;
  }
  for (const drawn of DRAWN_BY_GRADIO)
    byId(`jet-tab-panel-${drawn}`).classList.toggle("jet-tab-closed", name !== drawn);
  if (name === "stories") showStories();
  else if (!WITHOUT_SERVER.includes(name)) order({ type: "sync" });
}

/** Moves to another tab by arrow, Home or End, and returns whether the key does that. @param {KeyboardEvent} event */
export function moveByKey({ key, target }) {
  const tab = /** @type {HTMLElement} */ (target);
  const index = tabs().indexOf(tab);
  const to = /** @type {Record<string, number>} */ ({
    ArrowRight: index + 1,
    ArrowLeft: index - 1,
    Home: 0,
    End: -1,
  })[key];
  if (index < 0 || to === undefined) return false;
  const next = /** @type {HTMLElement} */ (tabs().at(to % tabs().length));
  next.focus();
  openDrawer(next.dataset.tab ?? "");
  return true;
}
