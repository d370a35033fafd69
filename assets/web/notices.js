// Lines at the foot of the page that stay while they are true, one a topic: the connection, another tab, the storage.

import { byId, make, makeButton } from "./dom.js";
import { markPage } from "./page_marks.js";

/** @type {Map<string, HTMLElement>} */
const shown = new Map();

function list() {
  const found = document.getElementById("jet-notices");
  if (found) return found;
  const made = make("div", { id: "jet-notices" });
  byId("jet-editor-column").append(made);
  return made;
}

/** Removes the line of a topic. @param {string} topic */
export function clear(topic) {
  shown.get(topic)?.remove();
  shown.delete(topic);
  markPage("notices", shown.size > 0);
}

/**
 * Shows a line, in place of the topic's last one.
 * @param {string} topic
 * @param {string} text
 * @param {{ action?: [string, () => void], closable?: boolean }} [options] `action` is a button: its label and what it
 *   does
 */
export function show(topic, text, { action, closable = false } = {}) {
  if (shown.get(topic)?.dataset.said === text) return;
  clear(topic);
  const line = make("p", {}, { role: "status", "data-said": text });
  line.append(make("span", { textContent: text }));
  if (action)
    line.append(
      makeButton({ className: "jet-text-button", textContent: action[0], onclick: action[1] }, action[0]),
    );
  if (closable) {
    const close = { className: "jet-text-button", textContent: "×", onclick: () => clear(topic) };
    line.append(makeButton(close, "Put this line away"));
  }
  list().append(line);
  shown.set(topic, line);
  markPage("notices", true);
}
