// The drawer beside the story: named parts that open one at a time, or none.

import { order } from "./commands.js";
import { all, byId } from "./dom.js";
import { editor } from "./editor.js";
import { markPage } from "./page_marks.js";
import { showStories } from "./story_list.js";

const DRAWN_BY_GRADIO = ["settings", "engine"];
const WITHOUT_SERVER = ["settings", "models"]; // models.js asks by itself
const tabs = () => all(".jet-tabs [role=tab]");

/** The name of the open part; empty if the drawer is closed. */
export const openPart = () => tabs().find((tab) => tab.ariaSelected === "true")?.dataset.tab ?? "";

/** @param {string} name */
function showPart(name) {
  for (const tab of tabs()) {
    const chosen = tab.dataset.tab === name;
    tab.setAttribute("aria-selected", `${chosen}`);
    tab.tabIndex = chosen || (!name && tab === tabs()[0]) ? 0 : -1;
    const panel = byId(tab.getAttribute("aria-controls") ?? "");
    if (DRAWN_BY_GRADIO.includes(tab.dataset.tab ?? "")) panel.classList.toggle("jet-tab-closed", !chosen);
    else panel.hidden = !chosen;
  }
  markPage("drawer", name);
}

/** Opens a part of the drawer, and closes the others. @param {string} name */
export function openDrawer(name) {
  showPart(name);
  if (name === "stories") showStories();
  else if (name === "tools") order({ type: "summary" });
  else if (!WITHOUT_SERVER.includes(name)) order({ type: "sync" });
}

/** Closes the drawer. Returns whether it was open. */
export function closeDrawer() {
  const name = openPart();
  if (!name) return false;
  const inside = byId("jet-tabs-column").contains(document.activeElement);
  showPart("");
  if (inside) editor().focus({ preventScroll: true });
  return true;
}

/** Opens a part, or closes it if it is open. @param {string} name */
export function toggleDrawer(name) {
  if (openPart() === name) closeDrawer();
  else openDrawer(name);
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
