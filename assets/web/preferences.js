// The writer's preferences: how much is written and how it is sampled, where it stops, how words are marked. They belong
// to this browser, whatever the story. The seed belongs to a story.

import { openStorage } from "./browser_storage.js";
import { field, targetOf } from "./dom.js";

const KEY = "taste";
// What words are marked by, and the names that the browser's storage has had for it from the first.
/** @type {Record<string, string>} */
const STORED_NAMES = { plain: "plain", latest: "latest", authorship: "whose", confidence: "doubt" };
const storage = openStorage("localStorage");
/** @type {Record<string, any>} */
let now = {};

/** @param {Record<string, any>} changes */
function put(changes) {
  const next = { ...now, ...changes };
  if (JSON.stringify(next) === JSON.stringify(now)) return;
  now = next;
  storage.tryWrite(KEY, JSON.stringify(now)); // if not, it lasts as long as this tab
}

/** Puts the page's own fields as they were, and keeps what is chosen. The controls are Gradio's. */
export function install() {
  now = storage.readObject(KEY);
  document.addEventListener("input", (event) => {
    const target = targetOf(event);
    if (target.id === "jet-stops") put({ stops: target.value });
    else if (target.id === "jet-show-all-numbers") put({ numbers: target.checked });
    else if (target.id === "jet-alternatives") put({ alternatives: target.checked });
    else if (target.id === "jet-offers") put({ offers: target.checked });
    else if (target.id === "jet-highlight") put({ tint: STORED_NAMES[target.value] });
  });
  field("jet-stops").value = stops();
  field("jet-show-all-numbers").checked = now.numbers === true;
  field("jet-offers").checked = now.offers === true;
  if (typeof now.alternatives === "boolean") field("jet-alternatives").checked = now.alternatives;
  const highlight = /** @type {HTMLSelectElement} */ (/** @type {unknown} */ (field("jet-highlight")));
  highlight.value = Object.keys(STORED_NAMES).find((name) => STORED_NAMES[name] === now.tint) ?? "latest";
}

/** What a control was set to last; undefined if it never was. @param {string} name */
export function controlValue(name) {
  const value = now.controls?.[name];
  return ["number", "string"].includes(typeof value) ? value : undefined;
}

/** What all controls were set to last, as far as they ever were. @returns {Record<string, unknown>} */
export const controlValues = () => now.controls ?? {};

/** Keeps what the controls are set to. @param {Record<string, unknown>} controls */
export const keepControls = (controls) => put({ controls });

/** The texts to stop at, one a line. */
export const stops = () => (typeof now.stops === "string" ? now.stops : "");
/** Keeps the texts to stop at. @param {string} text */
export const keepStops = (text) => put({ stops: text });
