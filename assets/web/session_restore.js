// Where the writer was: the caret, how far the story and the page were scrolled, which parts stood open, and what was
// half typed. A reload of the tab comes back to it; a story opened otherwise begins at its own place.

import { openStorage } from "./browser_storage.js";
import { all, byId, field, hasMouse, targetOf } from "./dom.js";
import { editor } from "./editor.js";
import { allOpenParts, rememberOpenParts } from "./redraw.js";
import { storyId } from "./storage.js";
import { laidOut } from "./view_settings.js";

const KEY = "place";
const HALF_TYPED = "#jet-guidance, #jet-lore, #jet-about-field, #jet-title"; // where something may be half typed
const [KEEP_MS, PATIENCE_MS] = [1000, 8000];

const storage = openStorage("sessionStorage");
/** @type {Record<string, any>} */
let before = {};
let restored = false;
/** @type {Record<string, string | boolean>} */
const typed = {}; // by field; what the server has is removed from it

/** @param {HTMLInputElement} target */
function nameOf(target) {
  const entry = target.closest(".jet-entry");
  if (!entry) return target.id;
  const place = [.../** @type {Element} */ (entry.parentElement).children].indexOf(entry);
  return `lore ${place} ${target.dataset.lore}`;
}

/** Adds an empty entry to the lorebook's form. */
export function addLoreEntry() {
  const row = /** @type {HTMLTemplateElement} */ (byId("jet-lore-row"));
  byId("jet-lore").append(row.content.cloneNode(true));
}

/** @param {string} name @returns {HTMLInputElement | null | undefined} */
function fieldOf(name) {
  const [lore, index, key] = name.split(" ");
  if (lore !== "lore") return field(name);
  const entries = () => all("#jet-lore .jet-entry");
  for (let missing = Number(index) + 1 - entries().length; missing > 0; missing -= 1) addLoreEntry();
  return entries()[Number(index)]?.querySelector(`[data-lore="${key}"]`);
}

const accordion = () => /** @type {HTMLElement | null} */ (document.querySelector("#jet-advanced button"));
const isAccordionOpen = () => accordion()?.classList.contains("open") ?? false;
const seedField = () => /** @type {HTMLInputElement | null} */ (document.querySelector("#jet-seed input"));

function keep() {
  if (!restored || !editor()) return;
  const { selectionStart: from, selectionEnd: to, scrollTop: scroll } = editor();
  const tab = /** @type {HTMLElement | null} */ (document.querySelector(".jet-tabs [aria-selected=true]"));
  const now = {
    id: storyId(),
    from,
    to,
    scroll,
    page: scrollY,
    focused: document.activeElement === editor(),
    typed,
    drawer: tab?.dataset.tab,
    further: isAccordionOpen(),
    parts: allOpenParts(),
    seed: seedField()?.value ?? "",
  };
  storage.tryWrite(KEY, JSON.stringify(now)); // if not, a reload begins at the top
}

/** Goes back once the box has the text. @param {string} text @param {number} [since] */
function goBack(text, since = performance.now()) {
  if (restored) return;
  if (editor().value !== text && performance.now() - since < PATIENCE_MS) {
    requestAnimationFrame(() => goBack(text, since));
    return;
  }
  if (before.focused && hasMouse()) editor().focus({ preventScroll: true });
  editor().setSelectionRange(before.from, before.to);
  editor().scrollTop = before.scroll;
  scrollTo(0, before.page);
  laidOut().then(() => {
    if (!restored) editor().scrollTop = before.scroll; // the same offset was another line before
    restored = true;
  });
}

/** The seed as it was, if this is the same story. @returns {string | undefined} */
export const keptSeed = () => (before.id === storyId() ? before.seed : undefined);

/**
 * Goes back to where the writer was in the story that this tab had.
 * @param {string} text the story, which is on its way to the box
 * @param {(name: string) => void} openDrawer
 */
export function begin(text, openDrawer) {
  if (before.id !== storyId()) {
    restored = true;
    return;
  }
  rememberOpenParts(before.parts ?? []);
  if (before.drawer) openDrawer(before.drawer);
  if (before.further && !isAccordionOpen()) accordion()?.click();
  if (text) goBack(text);
  else restored = true;
}

/** Puts what was half typed over the story's memory and notes. Returns the names of those fields. */
export function finish() {
  const found = Object.entries(before.id === storyId() ? (before.typed ?? {}) : {});
  before.typed = {};
  for (const [name, value] of found) {
    const target = fieldOf(name);
    if (!target) continue;
    if (target.type === "checkbox") target.checked = value;
    else target.value = value;
    typed[name] = value;
  }
  return found.map(([name]) => name);
}

/** What is half typed now, by field. */
export const halfTyped = () => ({ ...typed });
/** Notes that the server and the browser have what these fields held. @param {Record<string, unknown>} sent */
export function forgetTyped(sent) {
  for (const [name, value] of Object.entries(sent)) if (typed[name] === value) delete typed[name];
}

/** Starts keeping where the writer is. */
export function install() {
  before = storage.readObject(KEY);
  document.addEventListener("input", (event) => {
    const target = targetOf(event);
    if (!target.closest(HALF_TYPED)) return;
    typed[nameOf(target)] = target.type === "checkbox" ? target.checked : target.value;
  });
  addEventListener("pagehide", keep);
  setInterval(keep, KEEP_MS); // a tab may crash
  for (const event of ["keydown", "pointerdown", "wheel"]) {
    const stay = () => {
      if (document.body.contains(editor())) restored = true;
    };
    addEventListener(event, stay, { capture: true, passive: true });
  }
}
