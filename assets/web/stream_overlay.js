// The model's new words in a long story, while they stream.
//
// Putting a long text into a box takes a browser tenths of a second, and new words come some twenty times a second. So
// meanwhile an overlay lies on the box, with the lines around the new words; the box gets them once, at the end.

import { copyType, hasMouse, make } from "./dom.js";
import { asOwnChange, editor, putText, tellGradio } from "./editor.js";
import { marksNewWords } from "./highlights.js";
import { applyEdit } from "./text_edits.js";
import { center } from "./viewport.js";

/** @import { Edit } from "./text_edits.js" */

const AROUND = 20_000; // units of the story before and behind the new words that can be seen

/** @type {HTMLElement | null} */
let overlay = null;
/** @type {Text} */
let words; // the node of the new words
/** @type {Edit | null} */
let patch = null; // the story's change so far

/** @param {Edit} edit */
function lay({ from, to }) {
  const box = editor();
  const story = box.value;
  const start = story.lastIndexOf("\n", Math.max(0, from - AROUND)) + 1;
  overlay = make("div", { id: "jet-overlay" }, { "aria-hidden": "true" });
  copyType(box, overlay);
  Object.assign(overlay.style, {
    left: `${box.offsetLeft}px`,
    top: `${box.offsetTop}px`,
    width: `${box.offsetWidth}px`,
    height: `${box.offsetHeight}px`,
  });
  words = document.createTextNode("");
  const byModel = make("span", marksNewWords() ? { className: "jet-new-words" } : {});
  byModel.append(words);
  overlay.append(story.slice(start, from), byModel, story.slice(to, to + AROUND));
  box.parentElement?.append(overlay);
}

/**
 * Puts an edit into the box as a writer would type it, so that the browser lays out what is new and not the whole story
 * again. That takes the focus for a moment, which under a finger would bring up the keyboard.
 * @param {Edit} edit
 */
function type({ from, to, text }) {
  const box = editor();
  const focused = /** @type {HTMLElement | null} */ (document.activeElement);
  if (from === to && !text) return;
  const whole = applyEdit(box.value, { from, to, text });
  if (hasMouse()) {
    box.focus({ preventScroll: true });
    box.setSelectionRange(from, to);
    document.execCommand(text ? "insertText" : "delete", false, text);
    if (focused !== box) {
      box.blur();
      focused?.focus?.({ preventScroll: true });
    }
  }
  if (box.value !== whole) putText(whole);
  tellGradio();
}

/** Tells whether the overlay lies on the box. */
export const isShown = () => overlay !== null;
/** What scrolls while the model writes. */
export const scroller = () => overlay ?? editor();
/** The story with the new words. @returns {string | undefined} undefined while there is no box */
export function fullText() {
  const story = editor()?.value;
  return patch ? applyEdit(story, patch) : story;
}

/** The story's change so far. */
export const currentPatch = () => patch;

/** Shows the story's change so far. Returns whether the overlay is a new one. @param {Edit} next */
export function show(next) {
  if (overlay && patch && (next.from !== patch.from || next.to !== patch.to)) overlay.remove();
  patch = next;
  const anew = !overlay?.isConnected;
  if (anew) lay(patch);
  if (patch.text.startsWith(words.data)) words.appendData(patch.text.slice(words.data.length));
  else words.data = patch.text;
  return anew;
}

/** Brings the end of the new words into sight. */
export function scrollToEnd() {
  if (!overlay) return;
  const range = document.createRange();
  range.setStart(words, Math.max(0, words.length - 1));
  range.setEnd(words, words.length);
  const place = words.length ? range : /** @type {HTMLElement} */ (words.parentElement);
  center(overlay, place.getBoundingClientRect());
}

/**
 * Gives the box the new words: the last ones, or where nothing more came, those that are there.
 * @param {Edit | null} [last]
 * @returns {number | null} how far the reader was from the end; null without an overlay
 */
export function commit(last = patch) {
  const below = overlay && overlay.scrollHeight - overlay.scrollTop;
  if (last) asOwnChange(() => type(last));
  remove();
  return below;
}

/** Removes the overlay; its words stay away from the box. */
export function remove() {
  overlay?.remove();
  overlay = patch = null;
}
