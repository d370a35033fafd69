// The forms of the story: its title, its memory, author's note and lorebook.

import { order } from "./commands.js";
import { all, field, targetOf } from "./dom.js";
import { state } from "./page_state.js";
import { forgetTyped, halfTyped } from "./session_restore.js";
import * as storage from "./storage.js";
import { showStories } from "./story_list.js";

/** @param {HTMLElement} entry */
function readLoreEntry(entry) {
  /** @param {string} name @returns {HTMLInputElement} */
  const part = (name) => /** @type {HTMLInputElement} */ (entry.querySelector(`[data-lore=${name}]`));
  return {
    kept: JSON.parse(entry.dataset.kept ?? "null"),
    keywords: part("keywords").value,
    content: part("content").value,
    enabled: part("enabled").checked,
    constant: part("constant").checked,
  };
}

/** Gives the server memory, author's note, lorebook, and what the story is to be about. */
export function sendGuidance() {
  const typed = halfTyped();
  const guidance = {
    about: field("jet-about-what").value,
    memory: field("jet-memory").value,
    note: field("jet-note").value,
    depth: Math.round(Number(field("jet-depth").value)) || 1,
    unit: field("jet-unit").value,
    lore: all("#jet-lore .jet-entry").map(readLoreEntry),
  };
  order({ type: "set_guidance", ...guidance }, () => Object.assign(state.sentFields, typed));
}

/** Gives the server the title. */
export function sendTitle() {
  const [typed, text] = [halfTyped(), field("jet-title").value];
  order({ type: "set_title", text }, () => {
    Object.assign(state.sentFields, { "jet-title": typed["jet-title"] });
    storage.save(showStories);
  });
}

/** Gives the server again what it has yet to hear. */
export function resendForms() {
  if (state.unsent.delete("set_guidance")) sendGuidance();
  if (state.unsent.delete("set_title")) sendTitle();
}

/** Notes that the browser has what the server was sent. */
export function noteKept() {
  forgetTyped(state.sentFields);
  state.sentFields = {};
}

/** Starts watching the forms. */
export function install() {
  document.addEventListener("change", (event) => {
    const target = targetOf(event);
    if (target.closest("#jet-tab-panel-guidance, #jet-about-field")) sendGuidance();
    else if (target.id === "jet-title") sendTitle();
  });
}
