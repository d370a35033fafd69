// The list of the stories that this browser keeps.

import { order } from "./commands.js";
import { byId, make, makeButton } from "./dom.js";
import { replaceStory } from "./replace_story.js";
import * as storage from "./storage.js";
import { nameOf } from "./story_index.js";
import { isOpenElsewhere } from "./tab_lock.js";

/** Opens a story. @param {string} id */
export function openStory(id) {
  replaceStory({ type: "restore", ...storage.load(id) }, () => {
    storage.switchTo(id);
    showStories();
  });
}

/** @param {string} id */
function remove(id) {
  if (!confirm("Remove this story from the browser for good?")) return;
  const key = storage.stateKey(id);
  storage.remove(id);
  const left = [storage.storyId(), ...storage.stories().map(([other]) => other)];
  if (!left.some((other) => storage.stateKey(other) === key)) order({ type: "forget_story", of: key });
  showStories();
}

/** @param {[string, import("./story_index.js").StoryInfo]} story */
function row([id, info]) {
  const isHere = id === storage.storyId();
  const elsewhere = isOpenElsewhere(id) ? ", open in another tab" : "";
  const openButton = make("button", {
    className: "jet-branch",
    disabled: isHere,
    onclick: () => openStory(id),
  });
  openButton.append(
    make("b", { textContent: nameOf(info) }),
    make("span", { textContent: ` ${new Date(info.saved ?? 0).toLocaleString()}${elsewhere}` }),
  );
  if (isHere) openButton.setAttribute("aria-current", "true");
  const properties = {
    className: "jet-text-button",
    textContent: "Remove",
    disabled: isHere,
    onclick: () => remove(id),
  };
  const item = make("li");
  item.append(openButton, makeButton(properties));
  return item;
}

/** Draws the list. */
export function showStories() {
  byId("jet-library").replaceChildren(...storage.stories().map(row));
}
