// An empty sheet. On a first visit a beginning stands on it in gray, which Tab takes, and Continue as well; whoever comes
// back finds the last story at one click.

import { all, byId, field, make, makeButton } from "./dom.js";
import { editor } from "./editor.js";
import * as storage from "./storage.js";
import { describeAge, latestOthers } from "./story_index.js";
import { openStory } from "./story_list.js";

const DAY_MS = 86_400_000;
const SHOWN = 3;
const UNTOUCHED = ["jet-memory", "jet-note", "jet-about-what"];

let ghost = ""; // the beginning on the sheet
let plain = ""; // what stands there otherwise

/** Tells whether the beginning in gray is what Continue would go on from. */
const isShown = () => Boolean(ghost) && !editor().value && UNTOUCHED.every((id) => !field(id)?.value.trim());

/** Makes the beginning in gray the writer's text, if it stands there. Returns whether it did. */
export function takeGhost() {
  if (!isShown()) return false;
  const element = editor();
  element.setRangeText(ghost, 0, 0, "end");
  element.dispatchEvent(new InputEvent("input", { bubbles: true, inputType: "insertReplacementText" }));
  return true;
}

/** @param {string} id @param {import("./story_index.js").StoryInfo} info @param {string} className */
function storyButton(id, info, className) {
  const { name, age } = describeAge(info, Date.now());
  const button = makeButton({ className, onclick: () => openStory(id) });
  button.append(make("span", { textContent: `“${name}”` }), make("small", { textContent: `, ${age}` }));
  return button;
}

/** Draws what the sheet offers while it is empty. */
export function showBeginnings() {
  const place = byId("jet-welcome");
  const [last, ...others] = latestOthers(storage.stories(), storage.storyId()).slice(0, SHOWN);
  place.hidden = !last;
  place.replaceChildren();
  byId("jet-openings").classList.toggle("jet-back", Boolean(last));
  const openings = all(".jet-beginnings [data-opening]");
  ghost = last ? "" : (openings[Math.floor(Date.now() / DAY_MS) % openings.length]?.dataset.opening ?? "");
  plain ||= editor().placeholder;
  editor().placeholder = ghost || plain;
  byId("jet-ghost-hint").hidden = !ghost;
  if (!last) return;
  const goOn = storyButton(...last, "jet-card jet-go-on");
  goOn.prepend(make("b", { textContent: "Go on with " }));
  place.append(goOn);
  const more = make("div", { className: "jet-chips" });
  more.append(...others.map(([id, info]) => storyButton(id, info, "jet-chip")));
  const library = makeButton({ className: "jet-chip", textContent: "All stories" });
  library.dataset.tab = "stories";
  more.append(library);
  place.append(more, make("p", { className: "jet-hint", textContent: "Or begin another:" }));
}

/** Starts watching for Tab on an empty sheet. */
export function install() {
  document.addEventListener("keydown", (event) => {
    const { key, shiftKey, ctrlKey, altKey, metaKey, target } = event;
    if (key !== "Tab" || shiftKey || ctrlKey || altKey || metaKey || target !== editor()) return;
    if (takeGhost()) event.preventDefault();
  });
}
