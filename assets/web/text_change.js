// Changes of the story by the page's tools, as if the writer had made them: one step of Undo each, kept and sent.

import { editor, putText } from "./editor.js";
import { state } from "./page_state.js";
import { say } from "./toast.js";

/** Tells whether the writer's tools may change the text now, and says why not. */
export function mayChange() {
  if (state.generating) say("The model is writing: press Stop first.", { bad: true });
  return !state.generating;
}

/**
 * Makes this the text, in one step. Returns whether that was possible.
 * @param {string} text
 * @param {number} at where the caret is to be
 */
export function changeText(text, at) {
  if (!mayChange()) return false;
  putText(text, at);
  editor().dispatchEvent(new InputEvent("input", { bubbles: true, inputType: "insertReplacementText" }));
  return true;
}
