// Which buttons can be pressed just now.

import { all, field } from "./dom.js";
import { markPage } from "./page_marks.js";
import { state } from "./page_state.js";

const COMMANDS =
  "[data-command], [data-generate], [data-opening], #jet-new, #jet-import, #jet-write-about, #jet-welcome button";

/** Locks what cannot be done while the model writes, and steps that there are none of. */
export function refreshButtons() {
  markPage("writing", state.generating);
  for (const button of /** @type {HTMLButtonElement[]} */ (all(COMMANDS))) {
    const canBePicked = button.classList.contains("jet-select-variant");
    if (!button.closest("#jet-popover")) button.disabled = state.generating && !canBePicked;
  }
  field("jet-undo").disabled = state.generating || !state.steps.undo;
  field("jet-redo").disabled = state.generating || !state.steps.redo;
  field("jet-retry").disabled = state.generating || !state.steps.retry;
}

/** Presses a button, if it can be pressed. @param {string} id */
export function press(id) {
  const button = field(id);
  if (button && !button.disabled) button.click();
}
