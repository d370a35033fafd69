// Scrolls the story and the page so that a place of the text can be seen.

import { editor } from "./editor.js";
import { caretRect } from "./highlights.js";

const EDGE_PX = 4; // closer to an edge than this counts as out of sight

/**
 * Scrolls an element so that a place in it is at its middle, if it is out of sight. Returns how far it scrolled.
 * @param {HTMLElement} scroller
 * @param {{ top: number, bottom: number }} place on the screen
 */
export function center(scroller, { top, bottom }) {
  const frame = scroller.getBoundingClientRect();
  if (top >= frame.top + EDGE_PX && bottom <= frame.bottom - EDGE_PX) return 0;
  const before = scroller.scrollTop;
  scroller.scrollTop += Math.round((top + bottom) / 2 - (frame.top + frame.bottom) / 2);
  return scroller.scrollTop - before;
}

/**
 * Brings an offset of the story into sight.
 * @param {number} [at] otherwise the caret
 * @param {{ page?: boolean }} [options] whether the page may be scrolled, too
 */
export function reveal(at = editor().selectionEnd, { page = true } = {}) {
  const { top, bottom } = caretRect(at);
  const shift = center(editor(), { top, bottom });
  if (!page) return;
  if (top - shift < 0) scrollBy(0, top - shift - innerHeight / 3);
  else if (bottom - shift > innerHeight) scrollBy(0, bottom - shift - (2 * innerHeight) / 3);
}
