// Draws HTML from the server in its place. Parts that unfold stay as open as they were, names being typed stay, and
// nothing is drawn while the pointer is pressed: what is under it could move away, and then it were no click.

import { all } from "./dom.js";
import { isNaming } from "./name_field.js";

const LONGEST_PRESS_MS = 1000; // an end that is not told, as of a list that unfolds, holds nothing up for longer

/** @type {Map<string, Set<string>>} names of open parts, by the id of their place */
const openParts = new Map();
/** @type {Map<HTMLElement, string>} */
const delayed = new Map(); // what is drawn after the press
let pressed = 0; // the timer of a press

/** @typedef {HTMLDetailsElement} Part */
/** @param {ParentNode} where */
const partsOf = (where) => /** @type {Part[]} */ (all("details", where));
/** @param {Part} part */
const summaryOf = (part) => /** @type {HTMLElement} */ (part.querySelector("summary"));
/** @param {Part} part */
const nameOf = (part) => {
  const { firstElementChild, childNodes } = summaryOf(part);
  return `${firstElementChild?.className}${childNodes[1]?.textContent}`;
};

/** @param {Part} part */
function noteOpen(part) {
  const where = part.closest("[id]:not(details)");
  if (!where) return;
  const names = openParts.get(where.id) ?? new Set();
  if (part.open) names.add(nameOf(part));
  else names.delete(nameOf(part));
  openParts.set(where.id, names);
}

/** @param {HTMLElement} place @param {string} html */
function drawNow(place, html) {
  const parts = partsOf(place);
  const focused = parts.find((part) => summaryOf(part) === document.activeElement);
  const focusedName = focused ? nameOf(focused) : null;
  const scrolled = new Map(parts.map((part) => [nameOf(part), part.querySelector("pre")?.scrollTop ?? 0]));
  parts.forEach(noteOpen); // a part that is just unfolding has sent no event yet
  place.innerHTML = html;
  const names = openParts.get(place.id) ?? new Set();
  for (const part of partsOf(place)) {
    const name = nameOf(part);
    part.open = names.has(name);
    const [inner, top] = [part.querySelector("pre"), scrolled.get(name)];
    if (part.open && inner && top) inner.scrollTop = top;
    if (name === focusedName) summaryOf(part).focus({ preventScroll: true });
  }
  for (const time of place.querySelectorAll("time")) {
    time.textContent = new Date(time.dateTime).toLocaleTimeString();
  }
}

function release() {
  clearTimeout(pressed);
  pressed = 0;
  for (const [place, html] of delayed) draw(place, html);
  delayed.clear();
}

/** Starts watching presses and parts that unfold. */
export function install() {
  document.addEventListener(
    "toggle",
    (event) => {
      const target = /** @type {any} */ (event.target);
      if (target.localName === "details" && target.isConnected) noteOpen(target);
    },
    true,
  );
  document.addEventListener(
    "pointerdown",
    () => {
      clearTimeout(pressed);
      pressed = setTimeout(release, LONGEST_PRESS_MS);
    },
    true,
  );
  for (const end of ["pointerup", "pointercancel"]) {
    document.addEventListener(end, () => setTimeout(release), true);
  }
}

/** Draws HTML in a place, now or after the press. @param {HTMLElement | null} place @param {string} html */
export function draw(place, html) {
  if (!place || isNaming(place)) return;
  if (pressed) delayed.set(place, html);
  else drawNow(place, html);
}

/** The open parts of all places, to be kept. @returns {[string, string[]][]} */
export const allOpenParts = () => [...openParts].map(([id, names]) => [id, [...names]]);
/** Opens parts when they are drawn next. @param {[string, string[]][]} kept */
export function rememberOpenParts(kept) {
  for (const [id, names] of kept) openParts.set(id, new Set(names));
}
