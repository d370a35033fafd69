// The writer's wishes about words: what is never to be written (phrases, one a line, and ready lists of them), and words
// that are to be likelier or less likely. They belong to this browser, whatever the story.

import { openStorage } from "./browser_storage.js";
import { field, targetOf } from "./dom.js";

const KEY = "banned";
const FIELDS = { banned: "text", likelier: "likelier", rarer: "rarer" }; // by the names in the browser's storage
const storage = openStorage("localStorage");

/** @returns {HTMLInputElement[]} */
const boxes = () =>
  [...document.querySelectorAll("input[data-banned-list]")].map((box) => /** @type {any} */ (box));
/** @returns {(string | undefined)[]} */
const chosenLists = () =>
  boxes()
    .filter((box) => box.checked)
    .map((box) => box.dataset.bannedList);

/** The wishes as a command has them; nothing of what is empty. */
function wordFields() {
  const lines = Object.keys(FIELDS).map((name) => [
    name,
    field(`jet-${name}`)
      .value.split("\n")
      .filter((line) => line.trim()),
  ]);
  return Object.fromEntries([...lines, ["banned_lists", chosenLists()]].filter(([, found]) => found.length));
}

/** What every request of words takes along, beside the settings. */
export const wishFields = () => ({
  stops: field("jet-stops").value.split("\n").filter(Boolean),
  ...wordFields(),
  alternatives: field("jet-alternatives").checked,
});

/** Puts the fields as they were, and keeps what is changed. */
export function install() {
  const kept = storage.readObject(KEY);
  for (const [name, key] of Object.entries(FIELDS)) {
    field(`jet-${name}`).value = typeof kept[key] === "string" ? kept[key] : "";
  }
  const { lists } = kept;
  for (const box of boxes()) box.checked = Array.isArray(lists) && lists.includes(box.dataset.bannedList);
  document.addEventListener("input", (event) => {
    if (!targetOf(event).closest("#jet-never-write")) return;
    const texts = Object.entries(FIELDS).map(([name, key]) => [key, field(`jet-${name}`).value]);
    storage.tryWrite(KEY, JSON.stringify({ ...Object.fromEntries(texts), lists: chosenLists() }));
  });
}
