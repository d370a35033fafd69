// The writer types while the model writes. The box is never locked: the first key stops the generation and goes where
// the caret is, which moves along with the new words until the writer moves it; what still comes after that stays away.
// A wish to stop holds from the click on Continue on, whatever the server has heard so far.

import { byId, targetOf } from "./dom.js";
import {
  commitComposition,
  editor,
  isOwnChange,
  lastPutText,
  onIncomingText,
  placeCaret,
  putText,
  tellGradio,
} from "./editor.js";
import { marksNewWords, shownText, updateText } from "./highlights.js";
import { state } from "./page_state.js";
import { isShortcut, isWritingKey } from "./shortcuts.js";
import * as overlay from "./stream_overlay.js";
import { applyEdit, findEdit, overlayEdit } from "./text_edits.js";

const [REPEAT_MS, LATE_MS] = [1500, 1000];
const OTHER_FIELDS =
  "input, textarea, select, summary, [contenteditable], [role=tab], #jet-popover, #jet-tabs-column button";

let takenOver = false; // the writer's words stand; the model's are no longer wanted
let stopping = false;
let repeatTimer = 0; // repeats a stop, which may have been lost
/** @type {number | null} */
let suffixLength = null; // units of the story behind the new words
/** @type {number | null} */
let seenUntil = null; // where the new words ended when the writer stopped them
let caretMoves = false; // along with the new words
let lastCaret = [0, 0];
let baseText = ""; // the text that the generation began with
/** @type {string | null} */
let lastIncoming = null;
let endedAt = 0;
/** @type {((wrote: boolean) => void)[]} */
let afterwards = [];

/** Tells whether the writer has typed over the generation. */
export const isTakenOver = () => takenOver;
/** Tells whether the generation is to stop. */
export const isStopping = () => stopping;
/** How much of the story stands behind the new words; null where that is not known. */
export const suffix = () => suffixLength;
/** The text that the generation began with. */
export const base = () => baseText;
/** What the server is told of a stop: words beyond this place were never on the page. */
export const seenField = () => (seenUntil === null ? {} : { seen: seenUntil });

function noteCaret() {
  lastCaret = [editor().selectionStart, editor().selectionEnd];
}

/** Tells whether the caret still moves along with the new words: it is where it was put. */
export function caretFollows() {
  const { selectionStart, selectionEnd } = editor();
  caretMoves = caretMoves && selectionStart === lastCaret[0] && selectionEnd === lastCaret[1];
  return caretMoves;
}

/** @param {string} text what the generation has come to */
function show(text) {
  const follows = caretFollows();
  putText(text, follows && suffixLength !== null ? Math.max(0, text.length - suffixLength) : null);
  if (follows && suffixLength === null) {
    const { from, text: added } = findEdit(shownText(), text);
    placeCaret(from + added.length);
  }
  updateText(text, marksNewWords());
  noteCaret();
}

/** Stops the generation, as if Stop had been pressed. */
export function requestStop() {
  if (state.generating && !stopping) byId("jet-stop").click();
}

/** Notes that Stop was pressed, and presses it again until the generation ends. */
export function noteStop() {
  clearTimeout(repeatTimer);
  if (!state.generating) return;
  if (!stopping && !takenOver) {
    if (suffixLength !== null) seenUntil = Math.max(0, (overlay.fullText() ?? "").length - suffixLength);
    else seenUntil = lastIncoming === null ? 0 : null;
  }
  stopping = true;
  repeatTimer = setTimeout(() => byId("jet-stop").click(), REPEAT_MS);
}

/** Puts the overlay's words into the box, with the caret behind them. */
function commitOverlay() {
  if (!overlay.isShown()) return;
  const follows = caretFollows();
  overlay.commit();
  if (follows && suffixLength !== null) placeCaret(editor().value.length - suffixLength);
}

function takeOver() {
  if (!state.generating || takenOver) return;
  commitOverlay();
  requestStop(); // before anything of the writer's is in the box
  takenOver = true;
}

/** Does an input anew, now that the box has the model's words. @param {InputEvent} event */
function redoInput({ inputType, data, dataTransfer }) {
  if (inputType.startsWith("delete")) {
    document.execCommand(inputType.endsWith("Forward") ? "forwardDelete" : "delete");
    return;
  }
  const isBreak = /^insert(Line|Para)/.test(inputType);
  document.execCommand(
    "insertText",
    false,
    isBreak ? "\n" : (data ?? dataTransfer?.getData("text/plain") ?? ""),
  );
}

/** @param {KeyboardEvent} event */
function onKeyDown(event) {
  if (!state.generating || event.defaultPrevented) return;
  if (isShortcut(event, editor()) || !isWritingKey(event)) return;
  // The Enter that began the generation is still held down.
  if (event.repeat && event.key === "Enter" && !takenOver) {
    event.preventDefault();
    return;
  }
  const target = targetOf(event);
  if (target !== /** @type {Element} */ (editor())) {
    // Who types at nothing means the story.
    if (target.closest?.(OTHER_FIELDS)) return;
    if (target.matches?.("button:enabled:focus-visible") && [" ", "Enter"].includes(event.key)) return;
    editor().focus({ preventScroll: true });
  }
  if (overlay.isShown()) takeOver();
}

/** @param {InputEvent} event */
function onBeforeInput(event) {
  if (event.target !== editor() || isOwnChange() || !state.generating) return;
  if (event.inputType.startsWith("history")) return;
  const wasShown = overlay.isShown();
  takeOver();
  if (!wasShown || !event.cancelable) return;
  event.preventDefault();
  redoInput(event);
}

/** @param {DragEvent} event */
const isOverOverlay = (event) => Boolean(targetOf(event).closest?.("#jet-overlay"));
/** @param {DragEvent} event */
function onDrop(event) {
  const text = event.dataTransfer?.getData("text/plain");
  if (!text || !isOverOverlay(event)) return;
  event.preventDefault();
  takeOver();
  editor().focus({ preventScroll: true });
  document.execCommand("insertText", false, text);
}

/** @param {string} text that Gradio puts into the box */
function receiveText(text) {
  if (text === editor().value || (state.generating && stopping)) return;
  if (state.generating) {
    lastIncoming = text;
    show(text);
    return;
  }
  // Such a text is older than what was typed.
  const isLate = text === lastIncoming && performance.now() - endedAt < LATE_MS;
  if (text !== lastPutText() && !isLate) putText(text);
}

/** Calls a function when the generation has ended, with whether it has brought any words. @param {(wrote: boolean) => void} what */
export function afterEnd(what) {
  afterwards.push(what);
}

/** A generation begins. @param {import("./command_queue.js").Command} order */
export function begin({ type: what, at, until }) {
  takenOver = stopping = false;
  seenUntil = null;
  afterwards = [];
  lastIncoming = null;
  commitComposition();
  baseText = editor().value;
  const behind = what === "rewrite" ? until : at;
  suffixLength =
    what === "continue" ? 0 : behind === undefined ? null : Math.max(0, baseText.length - behind);
  if (!["continue", "continue_at", "rewrite"].includes(what)) suffixLength = null;
  caretMoves = what !== "variants";
  if (suffixLength !== null) placeCaret(baseText.length - suffixLength);
  noteCaret();
}

/** The server says how much of the story stands behind the new words. @param {number} units */
export function setSuffix(units) {
  suffixLength = units;
}

/** The writer has changed the box, and no earlier event said so. */
export function noteTyping() {
  if (!state.generating || takenOver) return;
  let written = shownText();
  if (overlay.isShown()) {
    const now = editor().value;
    const typed = findEdit(baseText, now, editor().selectionEnd);
    const patch = overlay.currentPatch();
    written = patch ? applyEdit(baseText, patch) : baseText;
    const merged = overlayEdit(written, now.length, typed, -1, findEdit(baseText, written));
    overlay.remove();
    putText(merged.text, merged.at);
  }
  seenUntil = suffixLength === null ? null : Math.max(0, written.length - suffixLength);
  takenOver = true;
  requestStop();
}

/** The generation has ended. Returns what was to be called then. @param {string | null} text what it came to, if known */
export function end(text) {
  clearTimeout(repeatTimer);
  endedAt = performance.now();
  stopping = false;
  if (takenOver) {
    overlay.remove();
    tellGradio();
  } else if (text !== null && !overlay.isShown()) {
    lastIncoming = text;
    show(text);
  }
  return afterwards.splice(0);
}

/** Starts watching keys, input, and texts from Gradio. */
export function install() {
  onIncomingText(receiveText);
  document.addEventListener("keydown", onKeyDown);
  document.addEventListener("beforeinput", onBeforeInput, true);
  document.addEventListener(
    "compositionstart",
    ({ target }) => {
      if (target === editor()) takeOver();
    },
    true,
  );
  document.addEventListener("dragover", (event) => {
    if (isOverOverlay(event)) event.preventDefault();
  });
  document.addEventListener("drop", onDrop);
}
