// Marks behind the words of the story: a mirror of the text box, laid over it and invisible, whose words get highlights.
// The box stays what it is, so that typing, selecting and reading aloud work as everywhere.

import { copyType, field, make } from "./dom.js";
import { editor } from "./editor.js";
import { lastAtMost, shiftMarks, withoutBlanks } from "./mark_ranges.js";
import { markPage } from "./page_marks.js";
import { findEdit } from "./text_edits.js";

const LEVELS = ["jet-model", "jet-confidence-1", "jet-confidence-2", "jet-confidence-3"];
const POINTED = "jet-pointed";
const MARGIN_PX = 200; // painted above and below what can be seen
const isSupported = () => typeof Highlight === "function" && Boolean(CSS.highlights);

/** Tells whether the words that the model writes just now are marked. */
export const marksNewWords = () => ["latest", "authorship"].includes(field("jet-highlight").value);

let text = "";
/** @type {number[]} */
let marks = [];
/** @type {string[]} */
let lines = []; // as they stand in the mirror, one element each
/** @type {number[]} */
let starts = []; // where each line begins
/** @type {[number, number] | null} */
let pointed = null;
/** @type {HTMLElement} */
let mirror;
let frame = 0;
let ghost = ""; // words in gray behind the text

/** Paints all marks anew, in the next frame. */
export const paintLater = () => {
  frame = frame || requestAnimationFrame(() => paint());
};

function ensureMirror() {
  if (mirror?.isConnected) return;
  mirror = make("div", { id: "jet-mirror" }, { "aria-hidden": "true" });
  editor().parentElement?.append(mirror);
  lines = [];
  new ResizeObserver(paintLater).observe(editor());
}

/**
 * Blanks that the box keeps where they stand; else a mark would cover the one at which a line wraps.
 * @param {Element} element
 * @param {string} line
 */
function fillLine(element, line) {
  element.classList.toggle("jet-empty", !/[^ \t]/.test(line));
  element.classList.toggle("jet-blanks", /^ | $| {2}|\t/.test(line));
  if (line) element.textContent = line;
  else element.replaceChildren(make("br"));
}

/** Brings the mirror's lines up to date. Only lines that differ are touched, so a long story costs no more. */
function copyText() {
  const now = text.split("\n");
  let first = 0;
  while (first < lines.length && first < now.length && lines[first] === now[first]) first += 1;
  let [oldEnd, newEnd] = [lines.length, now.length];
  while (oldEnd > first && newEnd > first && lines[oldEnd - 1] === now[newEnd - 1]) {
    oldEnd -= 1;
    newEnd -= 1;
  }
  const shared = Math.min(oldEnd, newEnd);
  for (let index = first; index < shared; index += 1) fillLine(mirror.children[index], now[index]);
  for (let index = oldEnd - 1; index >= shared; index -= 1) mirror.children[index].remove();
  if (newEnd > shared) {
    const added = document.createDocumentFragment();
    for (const line of now.slice(shared, newEnd)) {
      const element = make("div");
      fillLine(element, line);
      added.append(element);
    }
    mirror.insertBefore(added, mirror.children[shared] ?? null);
  }
  lines = now;
  starts = [];
  for (let index = 0, at = 0; index < now.length; at += now[index].length + 1, index += 1) starts.push(at);
}

/** Puts the words in gray behind the last line; a word that they complete may wrap within. */
function placeGhost() {
  mirror.querySelector(".jet-ghost")?.remove();
  if (!ghost) return;
  const [line, span] = [lineElement(lines.length - 1), make("span", { className: "jet-ghost" })];
  span.append(make("wbr"), ghost);
  line.insertBefore(span, line.querySelector("br"));
  const hidden = span.getBoundingClientRect().bottom - mirror.getBoundingClientRect().bottom;
  if (hidden > 0) editor().scrollTop += hidden;
}

function placeMirror() {
  const from = editor();
  copyType(from, mirror);
  mirror.style.left = `${from.offsetLeft + from.clientLeft}px`;
  mirror.style.top = `${from.offsetTop + from.clientTop}px`;
  mirror.style.width = `${from.clientWidth}px`;
  mirror.style.height = `${from.clientHeight}px`;
  mirror.scrollTop = from.scrollTop;
}

/** The line that an offset is in. @param {number} at */
const lineAt = (at) => lastAtMost(starts.length, (index) => starts[index], at);
/** @param {number} index */
const lineElement = (index) => /** @type {HTMLElement} */ (mirror.children[index]);

/** @param {number} index of a line @param {number} start @param {number} end @returns {Range | null} */
function rangeIn(index, start, end) {
  const node = lineElement(index).firstChild;
  if (node?.nodeType !== Node.TEXT_NODE) return null;
  const range = document.createRange();
  const { length } = /** @type {Text} */ (node); // what was pointed at may be gone
  range.setStart(node, Math.min(length, Math.max(0, start - starts[index])));
  range.setEnd(node, Math.min(length, Math.max(0, end - starts[index])));
  return range;
}

/** Paints marks where they can be seen, and nowhere else. */
function paintVisible() {
  /** @type {Range[][]} */
  const found = LEVELS.map(() => []);
  /** @param {number} index */
  const offset = (index) => lineElement(index).offsetTop;
  const from = lastAtMost(lines.length, offset, mirror.scrollTop - MARGIN_PX);
  const to = lastAtMost(lines.length, offset, mirror.scrollTop + mirror.clientHeight + MARGIN_PX);
  const end = starts[to] + lines[to].length;
  let mark = lastAtMost(marks.length / 3, (index) => marks[3 * index], starts[from]) * 3;
  for (; mark < marks.length && marks[mark] < end; mark += 3) {
    const [start, stop] = [Math.max(marks[mark], starts[from]), Math.min(marks[mark + 1], end)];
    for (let line = lineAt(start); line <= to && starts[line] < stop; line += 1) {
      const [first, last] = withoutBlanks(lines[line], start - starts[line], stop - starts[line]);
      if (first >= last) continue;
      const range = rangeIn(line, starts[line] + first, starts[line] + last);
      if (range) found[marks[mark + 2]].push(range);
    }
  }
  found.forEach((ranges, level) => {
    CSS.highlights.set(LEVELS[level], new Highlight(...ranges));
  });
}

/** @param {boolean} [always] lay the mirror even if nothing is marked */
function paint(always = false) {
  frame = 0;
  if (!editor()) return;
  ensureMirror();
  mirror.hidden = !always && !ghost && ((!marks.length && !pointed) || !isSupported());
  if (mirror.hidden) {
    if (isSupported()) for (const name of [...LEVELS, POINTED]) CSS.highlights.delete(name);
    return;
  }
  copyText();
  placeMirror();
  placeGhost();
  if (!isSupported()) return;
  paintVisible();
  const range = pointed && rangeIn(lineAt(pointed[0]), ...pointed);
  if (range) CSS.highlights.set(POINTED, new Highlight(range));
  else CSS.highlights.delete(POINTED);
}

/**
 * Follows a change of the text: marks move along with their words.
 * @param {string} now
 * @param {boolean} byModel mark new words as the model's
 * @param {number} [cursor] where the writer who typed is now
 */
export function updateText(now, byModel, cursor = now.length) {
  if (now === text) return;
  const { from, to, text: added } = findEdit(text, now, cursor);
  if (marks.length || byModel) marks = shiftMarks(marks, from, to - from, added.length, byModel);
  text = now;
  markPage("written", text !== "");
  paintLater();
}

/** The text as it was told last. */
export const shownText = () => text;

/** Takes the marks of a text, which may have been typed in since. @param {number[]} found @param {string} [of] */
export function setMarks(found, of = editor().value) {
  marks = found;
  text = of;
  markPage("written", text !== "");
  if (of !== editor().value) updateText(editor().value, false, editor().selectionEnd);
  paintLater();
}

/** A generation begins: where only the latest words are marked, the marks of those before go. */
export function forgetOlder() {
  if (field("jet-highlight").value === "latest") marks = [];
}

/** Shows words in gray behind the text, or none. @param {string} words */
export function showGhost(words) {
  ghost = words;
  if (!words) mirror?.querySelector(".jet-ghost")?.remove();
  paintLater();
}

/** Points at a part of the text, or at nothing. @param {number} [start] @param {number} [end] */
export function pointAt(start = 0, end = 0) {
  pointed = end > start ? [start, end] : null;
  paintLater();
}

/** Follows the box's scrolling. */
export function followScroll() {
  if (!mirror || mirror.hidden) return;
  mirror.scrollTop = editor().scrollTop;
  paintLater();
}

/** Where on the screen the caret would be at an offset. @param {number} at @returns {DOMRect} */
export function caretRect(at) {
  paint(true);
  const index = lineAt(at);
  const range = rangeIn(index, Math.max(starts[index], at - 1), Math.max(at, starts[index] + 1));
  paintLater();
  return [...(range?.getClientRects() ?? [])].at(-1) ?? lineElement(index).getBoundingClientRect();
}

/** Where on the screen a part of the text is. @param {number} start @param {number} end @returns {DOMRect} */
export function rectOf(start, end) {
  paint(true);
  return (rangeIn(lineAt(start), start, end) ?? mirror).getBoundingClientRect();
}
