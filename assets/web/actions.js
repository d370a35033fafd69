// What clicks and keys do. Elements of the page carry their command in `data-command`, `data-generate` or `data-opening`.

import * as alternatives from "./alternatives_popover.js";
import { order } from "./commands.js";
import { press } from "./controls.js";
import { all, byId, field, hasMouse, targetOf } from "./dom.js";
import { closeDrawer, moveByKey, toggleDrawer } from "./drawers.js";
import { editor, isComposing } from "./editor.js";
import { sendGuidance } from "./forms.js";
import { generate, generateByButton, step, withCaret } from "./generation.js";
import { askName } from "./name_field.js";
import { markPage } from "./page_marks.js";
import { state } from "./page_state.js";
import { replaceStory } from "./replace_story.js";
import { orRewriteAgain, watch as watchRewrites } from "./rewrite.js";
import { addLoreEntry } from "./session_restore.js";
import { findShortcut } from "./shortcuts.js";
import { requestStop } from "./stop_on_typing.js";
import { markPicked } from "./variants.js";

/** @import { Command } from "./command_queue.js" */

const CLICKABLE =
  "[data-command], [data-generate], [data-opening], [data-tab], [data-lore-remove], button[id]";

let presetName = ""; // what the settings are to be called

/** The name under which the settings are to be kept. */
export const chosenPresetName = () => presetName;

/** @param {Command} plain @param {HTMLElement} button */
function act(plain, button) {
  if (plain.type === "alternatives") alternatives.ask();
  else if (plain.type === "ask_name") {
    const branch = /** @type {HTMLElement} */ (button.closest("li")?.querySelector(".jet-branch"));
    askName(branch, "A name for this branch", plain.name, (name) =>
      order({ type: "rename", branch: plain.branch, name }),
    );
  } else {
    if (plain.type === "select_branch") markPicked();
    order(withCaret(plain));
  }
}

const writeAbout = () => generate({ type: "write_about", about: field("jet-about-what").value });

/** @param {string} text */
function putOpening(text) {
  const before = editor().value;
  const again = all("[data-opening]").some(({ dataset }) => dataset.opening === before);
  order({ type: "set_opening", before, text, again });
}

/** @param {HTMLElement} button */
function nameSettings(button) {
  askName(button, "A name for these settings", "", (name) => {
    presetName = name;
    byId("jet-save-preset").click();
  });
}

/** @param {HTMLElement} button */
function toggleMore(button) {
  const expands = button.ariaExpanded !== "true";
  button.ariaExpanded = `${expands}`;
  markPage("more", expands);
}

/** @type {Record<string, (button: HTMLElement) => void>} */
const BUTTONS = {
  "jet-lore-add": addLoreEntry,
  "jet-write-about": writeAbout,
  "jet-name-preset": nameSettings,
  "jet-more-toggle": toggleMore,
  "jet-open-numbers": () => byId("jet-show-all-numbers").click(),
  "jet-show-api": () => all("footer .show-api")[0]?.click(),
  "jet-new": () => replaceStory({ type: "new_story" }),
};

/** @param {MouseEvent} event */
function onClick(event) {
  const target = targetOf(event);
  // Commands leave by clicks, too, but those are not the writer's.
  if (event.isTrusted && target !== /** @type {Element} */ (editor()) && !target.closest("#jet-popover")) {
    alternatives.close();
  }
  const button = /** @type {HTMLButtonElement | null} */ (target.closest(CLICKABLE));
  if (!button || button.disabled) return;
  const { dataset } = button;
  if (dataset.command) {
    act(JSON.parse(dataset.command), button);
    button.closest("#jet-toast")?.remove();
    if (button.closest("#jet-popover")) alternatives.close();
  } else if (dataset.generate) {
    button.closest("#jet-toast")?.remove(); // the offer is taken
    generate(orRewriteAgain(JSON.parse(dataset.generate)));
  } else if (dataset.opening) putOpening(dataset.opening);
  else if (dataset.tab) toggleDrawer(dataset.tab);
  else if (dataset.loreRemove !== undefined) {
    button.closest(".jet-entry")?.remove();
    sendGuidance();
  } else BUTTONS[button.id]?.(button);
}

/**
 * Picks a variant at the press. While variants are written their buttons are drawn anew many times a second, and a
 * click, which is a press and a release on the same button, would seldom succeed.
 * @param {PointerEvent} event
 */
function onPointerDown(event) {
  const take = /** @type {HTMLElement | null} */ (targetOf(event).closest(".jet-select-variant"));
  if (take && state.generating && event.button === 0) act(JSON.parse(take.dataset.command ?? "{}"), take);
}

/** Undo and Redo as menus and phones ask for them. @param {InputEvent} event */
function onBeforeInput(event) {
  const what = /** @type {Record<string, "undo" | "redo">} */ ({ historyUndo: "undo", historyRedo: "redo" })[
    event.inputType
  ];
  if (event.target !== editor() || !what) return;
  event.preventDefault();
  step(what);
}

/** Leaves the focus in the story at a press with the mouse, so that the next key goes there. @param {MouseEvent} event */
function onMouseDown(event) {
  if (document.activeElement !== editor() || isComposing() || !hasMouse()) return;
  if (targetOf(event).closest?.("#jet-page button:not([role=tab], [draggable] *)")) event.preventDefault();
}

/** @type {Record<import("./shortcuts.js").Shortcut, () => void>} */
const SHORTCUTS = {
  stop() {
    if (!state.generating && !alternatives.isOpen()) closeDrawer();
    alternatives.close();
    requestStop();
  },
  undo: () => step("undo"),
  redo: () => step("redo"),
  word: () => alternatives.ask({ enter: true }),
  go: () => generate({ type: "continue" }),
  cursor: () => generateByButton("jet-continue-at", { type: "continue_at", at: -1 }),
  ask: () => press("jet-write-about"),
  retry: () => generateByButton("jet-retry", { type: "retry" }),
  fork: () => press("jet-fork"),
};

/** @param {KeyboardEvent} event */
function onKeyDown(event) {
  const shortcut = findShortcut(event, editor());
  if (shortcut) {
    if (shortcut !== "stop") event.preventDefault();
    SHORTCUTS[shortcut]();
  } else if (moveByKey(event)) event.preventDefault();
}

/** Starts watching clicks and keys. */
export function install() {
  watchRewrites(generate);
  document.addEventListener("click", onClick);
  document.addEventListener("pointerdown", onPointerDown);
  document.addEventListener("beforeinput", onBeforeInput);
  document.addEventListener("mousedown", onMouseDown);
  document.addEventListener("keydown", onKeyDown);
}
