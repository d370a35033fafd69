// What the writer never wants to read: phrases, one a line, and ready lists of them. They belong to this browser,
// whatever the story.

import { openStorage } from "./browser_storage.js";
import { field, targetOf } from "./dom.js";

const KEY = "banned";
const storage = openStorage("localStorage");

/** @returns {HTMLInputElement[]} */
const boxes = () =>
  [...document.querySelectorAll("input[data-banned-list]")].map((box) => /** @type {any} */ (box));

/** The phrases and lists as a command has them; nothing if there are none. */
export function bannedFields() {
  const banned = field("jet-banned")
    .value.split("\n")
    .filter((line) => line.trim());
  const lists = boxes()
    .filter((box) => box.checked)
    .map((box) => box.dataset.bannedList);
  return { ...(banned.length ? { banned } : {}), ...(lists.length ? { banned_lists: lists } : {}) };
}

/** Puts the control as it was, and keeps what is changed. */
export function install() {
  const { text, lists } = storage.readObject(KEY);
  field("jet-banned").value = typeof text === "string" ? text : "";
  for (const box of boxes()) box.checked = Array.isArray(lists) && lists.includes(box.dataset.bannedList);
  document.addEventListener("input", (event) => {
    if (!targetOf(event).closest("#jet-never-write")) return;
    const chosen = bannedFields().banned_lists ?? [];
    storage.tryWrite(KEY, JSON.stringify({ text: field("jet-banned").value, lists: chosen }));
  });
}
