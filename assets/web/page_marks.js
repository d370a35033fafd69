// What the style sheet asks about the page, in attributes of its outermost element. Rules with `:has()` would ask by
// themselves, and be looked up in all of the page at each word that the model writes.

import { byId, field } from "./dom.js";

/**
 * Marks the page with `data-NAME`, or takes the mark away if there is no value.
 * @param {string} name
 * @param {string | boolean} value
 */
export function markPage(name, value) {
  const page = byId("jet-page");
  if (value) page.dataset[name] = value === true ? "" : value;
  else delete page.dataset[name];
}

const markNumbers = () => markPage("numbers", field("jet-show-all-numbers").checked);
const markChat = () =>
  markPage("chat", byId("jet-model").querySelector(".jet-model-info[data-chat]") !== null);

/** Starts watching what others draw: the choice of all numbers, and a model that takes instructions. */
export function install() {
  byId("jet-numbers").addEventListener("change", markNumbers);
  new MutationObserver(markChat).observe(byId("jet-model"), { subtree: true, childList: true });
  markNumbers();
  markChat();
}
