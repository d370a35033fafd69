// The Models part: shows what can run here, and follows the change to another model, also while it is closed.

import { openStorage } from "./browser_storage.js";
import { order } from "./commands.js";
import * as connection from "./connection.js";
import { all, byId, field, targetOf } from "./dom.js";
import { pollDelay, progressOf, progressWords } from "./model_state.js";
import { draw } from "./redraw.js";
import { say } from "./toast.js";

/** @import { ModelState } from "./model_state.js" */

const LOST_MS = 8000; // without an answer, after which it is asked again
const TOLD = "model-suggestion";
const storage = openStorage("localStorage");

let timer = 0;
let drawn = "";
let wasActive = false;
/** @type {number | null} */
let changes = null; // of the model, when this tab heard last

const panel = () => document.getElementById("jet-tab-panel-models");
const isOpen = () => panel()?.hidden === false;

/** @param {number} milliseconds */
function askIn(milliseconds) {
  clearTimeout(timer);
  timer = setTimeout(ask, milliseconds);
}

function ask() {
  askIn(LOST_MS);
  if (!connection.isLost()) order({ type: "models" });
}

/** @param {string} html */
function drawList(html) {
  if (html === drawn) return;
  const command = /** @type {HTMLElement | null} */ (document.activeElement)?.dataset.model;
  draw(byId("jet-models"), html);
  drawn = html;
  if (command)
    all("[data-model]", byId("jet-models"))
      .find((one) => one.dataset.model === command)
      ?.focus();
}

/** @param {ModelState} now */
function drawChange(now) {
  byId("jet-model-change").hidden = now.stage === "idle";
  const [text, bar] = [byId("jet-model-change-text"), field("jet-model-progress")];
  const words = progressWords(now);
  if (text.textContent !== words) text.textContent = words;
  text.className = now.stage === "failed" ? "jet-bad" : "";
  bar.hidden = !now.active;
  const done = progressOf(now);
  if (done === null) bar.removeAttribute("value");
  else bar.value = `${done}`;
  const cancel = /** @type {HTMLButtonElement} */ (byId("jet-model-change").querySelector("button"));
  cancel.hidden = !now.canCancel;
}

/** Marks the tab where a better model is suggested, until it is opened. @param {ModelState} now */
function suggest(now) {
  const tab = byId("jet-tab-models");
  if (!now.suggestion || isOpen() || storage.read(TOLD) !== null) {
    if (isOpen() && now.suggestion) storage.tryWrite(TOLD, now.suggestion);
    tab.removeAttribute("data-news");
    tab.removeAttribute("title");
    return;
  }
  tab.dataset.news = "";
  tab.title = now.suggestion;
}

/** Shows what a reply tells of the models. @param {ModelState} now */
export function show(now) {
  drawChange(now);
  drawList(now.list);
  if (now.added) field("jet-model-folder-path").value = "";
  if (wasActive && !now.active && now.stage !== "canceled") say(now.message, { bad: now.stage === "failed" });
  wasActive = now.active;
  suggest(now);
  const delay = pollDelay(now, isOpen());
  if (delay === null) clearTimeout(timer);
  else askIn(delay);
}

/** Follows changes of the model, in this tab or another. @param {number} count how many there have been */
export function noteChanges(count) {
  const isNews = changes !== null && count !== changes;
  changes = count;
  if (!isNews) return;
  byId("jet-refresh").click(); // the line about the model
  if (isOpen()) ask();
}

/** Asks once, after the first writing in this browser, whether a better model is to be suggested. */
export function considerSuggestion() {
  if (panel() && storage.read(TOLD) === null && !timer) ask();
}

/** Starts watching the part, where the page has one. */
export function install() {
  const part = panel();
  if (!part) return;
  new MutationObserver(() => {
    if (isOpen()) ask();
  }).observe(part, { attributeFilter: ["hidden"] });
  // Their buttons are not locked while the model writes, as those of `data-command` are.
  part.addEventListener("click", (event) => {
    const button = /** @type {HTMLElement | null} */ (targetOf(event).closest("[data-model]"));
    if (button?.dataset.model) order(JSON.parse(button.dataset.model));
  });
  byId("jet-model-folder").addEventListener("submit", (event) => {
    event.preventDefault();
    order({ type: "add_model_folder", folder: field("jet-model-folder-path").value });
  });
}
