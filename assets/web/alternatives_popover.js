// Other words for one of the model's: a card beside the word, that takes neither the focus nor a key. Typing closes it.
// It is offered for a word that was chosen with mouse or finger, and comes by button and key for the one at the caret.

import { order } from "./commands.js";
import { all, byId, make } from "./dom.js";
import { editor } from "./editor.js";
import { pointAt, rectOf } from "./highlights.js";
import { state } from "./page_state.js";
import { isShortcut } from "./shortcuts.js";

const [DOUBLE_TAP_MS, DOUBLE_TAP_PX, LONGEST_WORD] = [450, 30, 60];
const [GAP_PX, EDGE_PX] = [6, 8];
const NEVER = { at: -1e9, x: 0, y: 0 };

/** @typedef {{ text: string, start: number, end: number }} Selection */
/** @type {Selection | null} */
let asked = null; // the text and selection that the card is for
let entering = false; // by key: the focus goes into the card
let lastTap = NEVER;
let byFinger = false;

const card = () => document.getElementById("jet-popover");
/** @returns {Selection} */
const selection = () => ({
  text: editor().value,
  start: editor().selectionStart,
  end: editor().selectionEnd,
});
/** @param {Selection} before */
function isUnchanged(before) {
  const now = selection();
  return before.start === now.start && before.end === now.end && before.text === now.text;
}

/** Tells whether the card is open. */
export const isOpen = () => card() !== null;

/** Closes the card. */
export function close() {
  const inside = card()?.contains(document.activeElement);
  asked = null;
  if (card()) pointAt();
  card()?.remove();
  if (inside) editor().focus({ preventScroll: true });
}

/** Puts the card below a word, or above it where there is no room. @param {HTMLElement} made @param {number} start @param {number} end */
function placeCard(made, start, end) {
  const word = rectOf(start, end);
  const [height, top] = [visualViewport?.height ?? innerHeight, visualViewport?.offsetTop ?? 0];
  const { offsetWidth, offsetHeight } = made;
  const fitsBelow = word.bottom + offsetHeight + EDGE_PX < top + height;
  const wanted = fitsBelow ? word.bottom + GAP_PX : word.top - offsetHeight - GAP_PX;
  made.style.left = `${Math.max(EDGE_PX, Math.min(word.left, innerWidth - offsetWidth - EDGE_PX))}px`;
  made.style.top = `${Math.max(top + EDGE_PX, Math.min(wanted, top + height - offsetHeight - EDGE_PX))}px`;
}

/** @param {{ start: number, end: number, html: string }} word */
function show({ start, end, html }) {
  if (!asked || state.generating || !isUnchanged(asked)) return;
  const [before, enter] = [asked, entering];
  close();
  asked = before;
  const made = make(
    "div",
    { id: "jet-popover", innerHTML: html },
    { role: "dialog", "aria-label": "Other words" },
  );
  made.dataset.start = `${start}`;
  made.dataset.end = `${end}`;
  made.addEventListener("mousedown", (event) => event.preventDefault()); // the focus stays where it is
  byId("jet-page").append(made);
  placeCard(made, start, end);
  made.addEventListener("toggle", () => placeCard(made, start, end), true);
  pointAt(start, end);
  if (enter) all("button:enabled", made)[0]?.focus({ preventScroll: true });
}

/**
 * Asks the server for other words.
 * @param {{ at?: number, quiet?: boolean, enter?: boolean }} [options] `at` is the place, otherwise the caret; `quiet`
 *   says nothing where there are none; `enter` puts the focus into the card
 */
export function ask({ at = editor().selectionStart, quiet = false, enter = false } = {}) {
  if (state.generating) return;
  close();
  asked = selection();
  entering = enter;
  order({ type: "alternatives", at, quiet }, ({ word }) => {
    if (word) requestAnimationFrame(() => show(word));
  });
}

/** Asks for what is selected, if that is a word and no more. */
function offer() {
  const { text, start, end } = selection();
  const chosen = text.slice(start, end);
  if (document.activeElement !== editor() || chosen.length > LONGEST_WORD || /\S\s+\S/.test(chosen)) return;
  if (asked && isUnchanged(asked)) return;
  if (start < end && !chosen.trim()) return;
  ask({ at: start + chosen.length - chosen.trimStart().length, quiet: true });
}
function offerIfSelected() {
  if (editor().selectionStart < editor().selectionEnd) offer();
}

/** @param {PointerEvent} event */
function onPointerUp({ target, pointerType, button, clientX: x, clientY: y, timeStamp: at }) {
  if (target !== editor() || button !== 0) return;
  if (pointerType !== "touch") {
    setTimeout(offerIfSelected);
    return;
  }
  const distance = Math.hypot(x - lastTap.x, y - lastTap.y);
  const twice = at - lastTap.at < DOUBLE_TAP_MS && distance < DOUBLE_TAP_PX;
  lastTap = twice ? NEVER : { at, x, y };
  if (twice) setTimeout(offer, 50); // the browser selects first
}

/** In the card arrows go from word to word and Enter takes one; a key that writes goes on in the story. @param {KeyboardEvent} event */
function onKeyDown(event) {
  const made = card();
  const { key, ctrlKey, metaKey } = event;
  const target = /** @type {HTMLElement} */ (event.target);
  if (!made?.contains(target)) return;
  const choices = all("button:enabled", made);
  const index = choices.indexOf(target);
  const to = /** @type {Record<string, number>} */ ({
    ArrowDown: index + 1,
    ArrowUp: index - 1,
    Home: 0,
    End: -1,
  })[key];
  if (to !== undefined) {
    event.preventDefault();
    choices.at(to % choices.length)?.focus({ preventScroll: true });
    return;
  }
  if (target.localName === "summary" && key === " ") return;
  const writes = key.length === 1 && !ctrlKey && !metaKey && !isShortcut(event, editor());
  if (writes || ["Backspace", "Delete"].includes(key)) close();
}

/** Starts watching for chosen words. */
export function install() {
  document.addEventListener(
    "pointerdown",
    ({ pointerType }) => {
      byFinger = pointerType === "touch";
    },
    true,
  );
  document.addEventListener("pointerup", onPointerUp);
  document.addEventListener("contextmenu", ({ target }) => {
    if (target === editor() && byFinger) setTimeout(offerIfSelected, 50); // a long press
  });
  document.addEventListener("selectionchange", () => {
    const made = card();
    if (made && asked && !made.contains(document.activeElement) && !isUnchanged(asked)) close();
  });
  document.addEventListener(
    "scroll",
    ({ target }) => {
      const made = card();
      if (made && target !== made) placeCard(made, Number(made.dataset.start), Number(made.dataset.end));
    },
    true,
  );
  document.addEventListener("keydown", onKeyDown, true);
}
