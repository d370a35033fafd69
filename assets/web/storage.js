// Stories in this browser: the text at once, the whole story with its branches a moment later.
//
// Each tab has a story of its own, which a reload, a crash or a restarted server leaves as it was. A tab whose story
// another tab has only shows it: once something is written there, that is saved as a copy.

import { browserSecret, openStorage } from "./browser_storage.js";
import { byId, field } from "./dom.js";
import { editor } from "./editor.js";
import * as notices from "./notices.js";
import { latestFirst, newStoryId, withStory } from "./story_index.js";
import { fullText } from "./stream_overlay.js";
import * as tabLock from "./tab_lock.js";

/** @import { StoryIndex } from "./story_index.js" */

const LONG = 100_000; // units; a longer text takes the browser a while to put away
const [SOON_MS, PAUSE_MS, PATIENCE_MS] = [300, 700, 3000];
const OWNER = "This story is open in another tab, too. What is written there is saved as a copy.";
const GUEST = "This story is open in another tab. What you write here is saved as a copy.";
const COPY = "This is a copy: the story is open in another tab.";
const FULL =
  "Not saved: this browser’s storage is full or forbidden. Save the story as a file, or remove old ones in the Library.";
const TEXT_ONLY =
  "Only the text is saved: this browser’s storage is full. Save the story as a file to keep its branches.";
const KEPT = "Saved on this device";
const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

const local = openStorage("localStorage");
const ofTab = openStorage("sessionStorage");

let id = "";
/** @type {string | null} */
let copyOf = null; // the story that this one is a copy of
let timer = 0;
let changedAt = 0; // when the oldest change was made that is not kept
let held = false; // while another story comes on the page
/** @type {"asking" | "owner" | "guest"} */
let role = "asking";
/** @type {string | null} */
let shownToGuest = null;
/** @type {string | null} */
let unkeptCopy = null; // the story with its branches, where the browser cannot keep it
let missing = { text: false, branches: false }; // what is kept nowhere
/** @type {string | null | undefined} */
let filedText = null; // the text that was last saved as a file

/** @param {string} which */
const draftOf = (which) => local.read(`draft:${which}`);
/** @param {string} which */
const copyOfStory = (which) => local.read(`copy:${which}`);
/** @returns {StoryIndex} */
const readIndex = () => local.readObject("index");
/** @param {StoryIndex} index */
const writeIndex = (index) => local.write("index", JSON.stringify(index));
const rememberId = () => ofTab.tryWrite("id", id); // without it, every load is a new story

/** @param {string} text @param {boolean} [bad] */
function tell(text, bad = false) {
  const line = byId("jet-save-status");
  if (line.textContent === text) return;
  line.textContent = text;
  line.classList.toggle("jet-bad", bad);
  if (bad) notices.show("storage", text, { closable: true });
  else notices.clear("storage");
}

/** Finds out whether this tab may write its story. @param {string | null | undefined} given the text on the page */
async function claim(given) {
  const wanted = id;
  role = "asking";
  shownToGuest = given ?? null;
  rememberId();
  const has = await tabLock.claim(wanted);
  if (wanted !== id || role !== "asking") return;
  role = has ? "owner" : "guest";
  if (has) notices.clear("tabs");
  else notices.show("tabs", GUEST, { closable: true });
  saveSoon();
}

/** Gives this tab a story of its own, a copy of the one that another tab has. */
function becomeCopy() {
  copyOf = readIndex()[id]?.from ?? id;
  id = newStoryId();
  role = "owner";
  unkeptCopy = null;
  tabLock.take(id);
  rememberId();
  notices.show("tabs", COPY, { closable: true });
}

/** @param {string} copy */
function tryWriteCopy(copy) {
  if (!local.tryWrite(`copy:${id}`, copy)) return false;
  unkeptCopy = null;
  missing.branches = false;
  return true;
}

/** Makes room for the words: they matter more than the branches. */
function dropBranches() {
  unkeptCopy ??= copyOfStory(id);
  missing.branches = unkeptCopy !== null;
  local.remove(`copy:${id}`);
}

/** @param {string} text @param {StoryIndex} index */
function writeText(text, index) {
  const write = () => {
    local.write(`draft:${id}`, text);
    writeIndex(index);
  };
  try {
    try {
      write();
    } catch {
      dropBranches();
      write();
    }
    missing.text = false;
    if (missing.branches && unkeptCopy !== null) tryWriteCopy(unkeptCopy);
    if (!missing.branches) tell(`${KEPT} ✓ ${TIME.format(Date.now())}`);
  } catch {
    missing.text = true;
    tell(FULL, true);
  }
}

/**
 * Keeps the text.
 * @param {() => void} [after] called once it is clear whose story it is, and its text was kept if it can be
 */
export function save(after) {
  clearTimeout(timer);
  timer = 0;
  const text = fullText();
  if (held || text === undefined) return;
  if (role === "asking") {
    timer = setTimeout(() => save(after), SOON_MS);
    return;
  }
  if (role === "owner" && !tabLock.has(id)) role = "guest";
  if (role === "guest") {
    if (text === shownToGuest) return;
    becomeCopy();
  }
  const index = readIndex();
  if (!text && !index[id] && !unkeptCopy) return;
  writeText(text, withStory(index, id, { title: field("jet-title").value, text, saved: Date.now(), copyOf }));
  after?.();
}

/** Keeps the text soon. A long one waits for a pause in typing, but not for long. */
export function saveSoon() {
  if (!timer) changedAt = performance.now();
  const isLong = (editor()?.value.length ?? 0) > LONG;
  if (isLong && performance.now() - changedAt < PATIENCE_MS) {
    clearTimeout(timer);
    timer = 0;
  }
  timer = timer || setTimeout(() => save(), isLong ? PAUSE_MS : SOON_MS);
}

/**
 * Keeps the story with its branches, as the server gave it.
 * @param {{ copy: string, dropped: string[], empty: boolean }} story `dropped` names what it leaves out
 */
export function saveCopy({ copy, dropped, empty }) {
  if (role === "asking") {
    setTimeout(() => saveCopy({ copy, dropped, empty }), SOON_MS);
    return;
  }
  if (!tabLock.has(id)) becomeCopy();
  const known = readIndex()[id];
  if (empty && !known) return;
  unkeptCopy = copy;
  if (!known) save(); // memory or notes without a text
  if (tryWriteCopy(copy)) {
    missing.branches = dropped.some((what) => what.includes("branch"));
    if (dropped.length && !missing.text) tell(`${KEPT}, without ${dropped.join(", and ")}`);
  } else {
    local.remove(`copy:${id}`);
    missing.branches = true;
    if (!missing.text) tell(TEXT_ONLY, true);
  }
}

/** Holds saving up while another story comes on the page. @param {boolean} on */
export function hold(on) {
  if (on) save();
  held = on;
}

/** Turns to another story, or to a new one. @param {string | null} which */
export function switchTo(which) {
  if (role === "owner") tabLock.release();
  else tabLock.leave(id);
  id = which ?? newStoryId();
  unkeptCopy = copyOf = filedText = null;
  missing = { text: false, branches: false };
  notices.clear("tabs");
  held = false;
  if (which) claim(draftOf(which) ?? "");
  else {
    role = "owner";
    rememberId();
    tabLock.take(id);
  }
}

/** Notes that the story has been saved as a file. */
export function noteFiled() {
  filedText = fullText();
}

/** Tells whether something of this story would be gone for good if another came on the page. */
export function isUnkept() {
  save();
  const text = fullText();
  return ((missing.text && Boolean(text || unkeptCopy)) || missing.branches) && text !== filedText;
}

/** What the browser has of a story. @param {string} [which] @returns {{ draft: string | null, copy: string | null }} */
export function load(which = id) {
  return { draft: draftOf(which), copy: (which === id ? unkeptCopy : null) ?? copyOfStory(which) };
}

/**
 * Keeps a story beside the one that is open. Returns whether there was room for it.
 * @param {{ title: string, text: string, copy: string }} story
 */
export function addStory({ title, text, copy }) {
  const which = newStoryId();
  const index = withStory(readIndex(), which, { title, text, saved: Date.now(), copyOf: null });
  const kept =
    local.tryWrite(`draft:${which}`, text) &&
    local.tryWrite(`copy:${which}`, copy) &&
    local.tryWrite("index", JSON.stringify(index));
  if (!kept) for (const kind of ["draft", "copy"]) local.remove(`${kind}:${which}`);
  return kept;
}

/**
 * The key by which the server knows this browser's story again after a restart, to go on from its stored state. A copy
 * has the key of its original, whose state it goes on from.
 * @param {string} [which]
 */
export const stateKey = (which = id) =>
  `${browserSecret()}.${readIndex()[which]?.from ?? ((which === id && copyOf) || which)}`;

/** Removes a story for good. @param {string} which */
export function remove(which) {
  const index = readIndex();
  delete index[which];
  for (const kind of ["draft", "copy"]) local.remove(`${kind}:${which}`);
  tabLock.forget(which);
  local.tryWrite("index", JSON.stringify(index));
}

/** The stories, latest first. */
export const stories = () => latestFirst(readIndex());
/** The id of this tab's story. */
export const storyId = () => id;
/** Claims the story that this tab had. */
export const claimStory = () => claim(draftOf(id) ?? "");

/** Starts with the story that this tab had, and keeps it when the tab goes. */
export function install() {
  id = ofTab.read("id") ?? newStoryId();
  tabLock.watch({
    asked: () => notices.show("tabs", OWNER, { closable: true }),
    lost() {
      // Taken for crashed, as after a long sleep.
      if (role !== "owner") return;
      role = "guest";
      shownToGuest = draftOf(id);
      notices.show("tabs", GUEST, { closable: true });
      saveSoon();
    },
    left(which) {
      if (which !== id) return;
      notices.clear("tabs");
      if (role === "guest" && draftOf(id) === shownToGuest) claim(shownToGuest);
    },
  });
  // A page that goes before it knows whether the story is its own leaves what was written as a copy.
  addEventListener("pagehide", () => {
    const [text, kept] = [fullText(), draftOf(id)];
    if (role === "asking" && text && text !== kept) {
      if (kept === null) role = "owner";
      else becomeCopy();
    }
    if (role !== "asking") save();
    if (role === "owner") tabLock.release();
    else tabLock.leave(id);
    if (copyOf) tabLock.leave(copyOf);
  });
  addEventListener("pageshow", ({ persisted }) => {
    if (persisted) claim(fullText());
  });
}
