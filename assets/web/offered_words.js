// A few words of the model in gray behind the text, offered when the writer pauses: Tab takes them, Esc or typing drops
// them. Until then they are no part of the story, and the sheet's own Tab is taken by nothing else.

import { isSettled, order } from "./commands.js";
import * as connection from "./connection.js";
import { byId, field } from "./dom.js";
import { editor, isComposing, isOwnChange } from "./editor.js";
import { parseObject } from "./event_stream.js";
import { showGhost } from "./highlights.js";
import { wishFields } from "./never_write.js";
import { state } from "./page_state.js";
import { controlValues } from "./preferences.js";
import { announce } from "./toast.js";

let typed = false; // since the last offer was asked for
let number = 0; // of the latest question
let asking = false; // and it has no answer yet
let shown = false;
let base = ""; // the text that the words shown go on from
let taking = false; // the words are on their way into the story

/** Tells whether the writer is at the end of a text that the server has. */
function isAtEnd() {
  const { value, selectionStart, selectionEnd } = editor();
  const isThere = document.activeElement === editor() && selectionStart === value.length;
  return isThere && selectionEnd === value.length && Boolean(value.trim()) && state.synced === value;
}

/** Asks for words, if this is the time for it: what was typed has just reached the server. */
export function consider() {
  if (taking && isSettled()) {
    taking = false;
    showGhost("");
  }
  if (shown && editor().value !== base) drop();
  const may = field("jet-offers").checked && typed && isSettled() && !isComposing() && isAtEnd();
  if (!may || asking || shown || connection.isLost()) return;
  typed = false;
  asking = true;
  number += 1;
  byId("jet-ask-offer").click();
}

function drop() {
  if (shown) showGhost("");
  shown = false;
  if (!asking) return;
  asking = false;
  number += 1;
  byId("jet-ask-offer").click(); // tells the server, too
}

/** A generation begins. */
export function begin() {
  typed = false;
  drop();
}

/** The question as Gradio sends it. */
export function offerCommand() {
  const question = { type: "offer", n: number, known: state.known, of: editor().value.length };
  return JSON.stringify(
    asking ? { ...question, settings: controlValues(), ...wishFields() } : { ...question, off: true },
  );
}

/** The answer. @param {string} answer */
export function showOffer(answer) {
  const { n, text } = parseObject(answer);
  if (n !== number || !asking) return [];
  asking = false;
  if (!text || state.generating || !isAtEnd()) return [];
  shown = true;
  base = editor().value;
  showGhost(text);
  announce(`Offered: ${text.trim()}. Tab takes it.`);
  return [];
}

function take() {
  shown = false;
  taking = typed = true; // and more are offered behind them
  order({ type: "take_offer", offer: number });
}

/** @param {KeyboardEvent} event */
function onKeyDown(event) {
  const { key, shiftKey, ctrlKey, altKey, metaKey } = event;
  if ((!shown && !taking) || event.target !== editor() || event.isComposing) return;
  if (shiftKey || ctrlKey || altKey || metaKey || !["Tab", "Escape"].includes(key)) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  if (key === "Escape") drop();
  else if (shown) take();
}

/** Starts watching keys, the caret and input methods. */
export function install() {
  document.addEventListener("keydown", onKeyDown, true);
  document.addEventListener("input", ({ target }) => {
    if (target !== editor() || isOwnChange()) return;
    typed = true;
    drop();
  });
  document.addEventListener("compositionstart", drop, true);
  document.addEventListener("selectionchange", () => {
    if ((shown || asking) && !isAtEnd()) drop();
  });
  document.addEventListener("focusout", ({ target }) => {
    if (target === editor()) drop();
  });
  document.addEventListener("mousedown", (event) => {
    if (!(/** @type {Element} */ (event.target).closest?.(".jet-ghost"))) return;
    event.preventDefault(); // under a finger the words themselves are the key
    if (shown) take();
  });
}
