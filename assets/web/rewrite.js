// Rewriting a selection. Retry makes another version of the same words, as long as they are the last that were rewritten.

import { field, targetOf } from "./dom.js";
import { editor } from "./editor.js";
import { state } from "./page_state.js";

/** @import { Command } from "./command_queue.js" */

/** @type {{ command: Command, base: string } | null} */
let last = null;

/** The selection, if there are words in it. @returns {[number, number] | null} */
function selection() {
  const { selectionStart, selectionEnd, value } = editor();
  return /[\p{L}\p{N}]/u.test(value.slice(selectionStart, selectionEnd))
    ? [selectionStart, selectionEnd]
    : null;
}

/** Shows whether there is something to rewrite. */
export function refresh() {
  const choice = field("jet-rewrite");
  const nothing = state.generating || document.activeElement !== editor() || !selection();
  if (document.activeElement !== choice) choice.disabled = nothing;
}

/** The command to rewrite what is selected; null if nothing is. @param {string} way @returns {Command | null} */
export function rewriteCommand(way) {
  const chosen = selection();
  if (!chosen) return null;
  const selected = editor().value.slice(...chosen);
  const passage = selected.trim();
  const at = chosen[0] + selected.length - selected.trimStart().length;
  const command = { type: "rewrite", way, at, until: at + passage.length, passage };
  last = { command, base: editor().value };
  return command;
}

/** What Retry is to do: another version of what was rewritten last, if that is what is on the sheet. @param {Command} plain @returns {Command} */
export function orRewriteAgain(plain) {
  if (plain.type !== "retry" || !last) return plain;
  const { command, base } = last;
  const text = editor().value;
  const [before, after] = [base.slice(0, command.at), base.slice(command.until)];
  const fits = text.startsWith(before) && text.endsWith(after) && text.length > before.length + after.length;
  if (!fits || text === base) {
    last = null;
    return plain;
  }
  return { ...command, until: text.length - after.length };
}

/** Starts watching the choice. @param {(command: Command) => void} generate */
export function watch(generate) {
  document.addEventListener("selectionchange", refresh);
  document.addEventListener("change", (event) => {
    const choice = targetOf(event);
    if (choice.id !== "jet-rewrite" || !choice.value) return;
    const command = rewriteCommand(choice.value);
    choice.value = "";
    if (command) generate(command);
  });
}
