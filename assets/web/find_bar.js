// Find and replace: a bar above the sheet. Patterns are looked for in a worker, which is ended if one takes too long.

import { byId, field, targetOf } from "./dom.js";
import { editor } from "./editor.js";
import { findAll, patternOf, replaceAll, replacedAt } from "./find_text.js";
import { pointAt } from "./highlights.js";
import { changeText, mayChange } from "./text_change.js";
import { say } from "./toast.js";
import { reveal } from "./viewport.js";

const [PAUSE_MS, LONGEST_MS] = [150, 2000];
const TOO_LONG = "This pattern takes too long here: please make it simpler.";

/** @type {{ text: string, pattern: RegExp, places: [number, number][] } | null} */
let found = null;
let current = -1; // index of the place that is pointed at
let timer = 0;
let asked = 0; // number of the search; an older one's answer counts for nothing

const bar = () => /** @type {HTMLFormElement} */ (/** @type {unknown} */ (byId("jet-find")));
const isRegex = () => field("jet-find-regex").checked;
/** @param {string} text @param {boolean} [bad] */
function tell(text, bad = false) {
  const line = byId("jet-find-count");
  line.textContent = text;
  line.classList.toggle("jet-bad", bad);
}

/** @param {string} text @param {RegExp} pattern @returns {Promise<[number, number][]>} */
function findInWorker(text, pattern) {
  const { source, flags } = pattern;
  const code = `${findAll};onmessage=({data:[t,s,f]})=>postMessage(findAll(t,new RegExp(s,f)))`;
  const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  const worker = new Worker(url);
  return new Promise((resolve, reject) => {
    const end = setTimeout(() => reject(new Error(TOO_LONG)), LONGEST_MS);
    worker.onmessage = ({ data }) => {
      clearTimeout(end);
      resolve(data);
    };
    worker.onerror = () => reject(new Error(TOO_LONG));
    worker.postMessage([text, source, flags]);
  }).finally(() => {
    worker.terminate();
    URL.revokeObjectURL(url);
  });
}

/** Looks for what the bar says. Returns whether it is found. */
async function search() {
  clearTimeout(timer);
  asked += 1;
  const [number, text, query] = [asked, editor().value, field("jet-find-text").value];
  found = null;
  if (!query) {
    tell("");
    pointAt();
    return false;
  }
  try {
    const pattern = patternOf(query, {
      regex: isRegex(),
      whole: field("jet-find-whole").checked,
      exact: field("jet-find-exact").checked,
    });
    const places = isRegex() ? await findInWorker(text, pattern) : findAll(text, pattern);
    if (number !== asked) return false;
    found = { text, pattern, places };
  } catch (error) {
    if (number === asked) tell(/** @type {Error} */ (error).message, true);
    return false;
  }
  return found.places.length > 0;
}

/** Points at a place, and brings it into sight. @param {number} index */
function show(index) {
  const places = found?.places ?? [];
  if (!places.length) {
    if (found) tell("Not found");
    pointAt();
    current = -1;
    return;
  }
  current = (index + places.length) % places.length;
  const [start, end] = places[current];
  editor().setSelectionRange(start, end);
  pointAt(start, end);
  reveal(start);
  tell(`${current + 1} of ${places.length.toLocaleString()}`);
}

/** The first place at or behind an offset. @param {number} at */
const indexFrom = (at) => Math.max(0, found?.places.findIndex(([start]) => start >= at) ?? 0);
/** Whether what was found is true of the text as it is. */
const isFresh = () => found !== null && found.text === editor().value;

/** @param {number} step */
async function go(step) {
  if (isFresh() && current >= 0) show(current + step);
  else {
    const at = editor().selectionStart;
    await search();
    show(indexFrom(at));
  }
}

async function replaceOne() {
  if (!mayChange()) return;
  if (!isFresh() || current < 0) {
    await go(1);
    return;
  }
  const { text, pattern, places } = /** @type {NonNullable<typeof found>} */ (found);
  const [start, end] = places[current];
  const became = replacedAt(text, pattern, places[current], field("jet-find-replacement").value, isRegex());
  if (!changeText(text.slice(0, start) + became + text.slice(end), start + became.length)) return;
  await search();
  show(indexFrom(start + became.length));
}

async function replaceEverything() {
  if (!mayChange()) return;
  if (!isFresh()) await search();
  if (!isFresh() || !found) return;
  const { pattern, places, text } = found;
  const made = replaceAll(text, pattern, field("jet-find-replacement").value, isRegex(), places);
  if (!made.count) {
    tell("Not found");
    return;
  }
  if (!changeText(made.text, Math.min(editor().selectionStart, made.text.length))) return;
  found = null;
  current = -1;
  pointAt();
  const times = made.count === 1 ? "one place" : `${made.count.toLocaleString()} places`;
  tell("");
  say(`Replaced in ${times}.`, { undo: true });
}

/** Opens the bar, with what is selected. */
export function openFind() {
  const { selectionStart, selectionEnd, value } = editor();
  const selected = value.slice(selectionStart, selectionEnd);
  bar().hidden = false;
  if (selected && !selected.includes("\n") && selected.length < 200) field("jet-find-text").value = selected;
  field("jet-find-text").focus();
  field("jet-find-text").select();
  if (field("jet-find-text").value) go(0);
}

/** Closes the bar; the place that was found is selected. */
export function closeFind() {
  bar().hidden = true;
  found = null;
  current = -1;
  tell("");
  pointAt();
  editor().focus({ preventScroll: true });
}

/** @param {KeyboardEvent} event */
function onKeyDown(event) {
  const inside = bar().contains(targetOf(event));
  const { key, ctrlKey, metaKey, altKey, shiftKey } = event;
  const opens = (ctrlKey || metaKey) && !altKey && !shiftKey && key.toLowerCase() === "f";
  if (opens && (inside || event.target === editor())) {
    event.preventDefault();
    openFind();
  } else if (inside && key === "Escape") {
    event.preventDefault();
    event.stopPropagation();
    closeFind();
  } else if (
    inside &&
    key === "Enter" &&
    targetOf(event).localName === "input" &&
    targetOf(event).type !== "checkbox"
  ) {
    event.preventDefault();
    event.stopPropagation();
    if (targetOf(event).id === "jet-find-replacement") replaceOne();
    else go(shiftKey ? -1 : 1);
  }
}

/** Starts watching the bar and Ctrl F. */
export function install() {
  document.addEventListener("keydown", onKeyDown, true);
  bar().addEventListener("submit", (event) => event.preventDefault());
  bar().addEventListener("input", ({ target }) => {
    if (/** @type {Element} */ (target).id === "jet-find-replacement") return;
    clearTimeout(timer);
    current = -1;
    timer = setTimeout(async () => {
      const at = editor().selectionStart;
      await search();
      show(indexFrom(at));
    }, PAUSE_MS);
  });
  /** @type {Record<string, () => void>} */
  const buttons = {
    "jet-open-find": openFind,
    "jet-find-next": () => go(1),
    "jet-find-previous": () => go(-1),
    "jet-find-one": replaceOne,
    "jet-find-all": replaceEverything,
    "jet-find-close": closeFind,
  };
  document.addEventListener("click", (event) => buttons[targetOf(event).closest?.("button")?.id ?? ""]?.());
}
