// What files bring, before they are opened: what cannot be kept of them, and what their letters were read as.

import { order } from "./commands.js";
import { byId, make, makeButton } from "./dom.js";
import { openDrawer } from "./drawers.js";
import { replaceStory } from "./replace_story.js";
import * as storage from "./storage.js";
import { showStories } from "./story_list.js";
import { say } from "./toast.js";

/** @typedef {{ name: string, data: string, encoding?: string }} Picked a file; its bytes in base64 */
/** @typedef {{ name: string, label: string, sample: string }} Encoding */
/**
 * What is in a file, as the server says it; `refused` is why it cannot be read.
 * @typedef {{
 *   name: string, refused?: string, kind?: string, title?: string, brings?: string[], losses?: string[],
 *   onlyGuidance?: boolean, hasGuidance?: boolean, asks?: boolean, encodings?: Encoding[],
 * }} Found
 */
/** @typedef {{ file: Picked, brings: Found[] }} Entry */

/** @type {(file: Picked) => Promise<Found[]>} */
let inspectAgain = async () => [];
/** @type {Entry[]} */
let shown = [];

function close() {
  shown = [];
  byId("jet-review").replaceChildren();
}

/** @param {string} label @param {() => void} onclick @param {string} [className] */
const button = (label, onclick, className = "jet-chip") =>
  makeButton({ className, textContent: label, onclick });

/** @param {Entry} entry */
function open({ file }) {
  close();
  replaceStory({ type: "import_file", ...file });
}

/** @param {Entry} entry */
function addToStory({ file }) {
  order({ type: "add_guidance", ...file }, ({ error }) => {
    if (!error) close();
  });
}

/** @param {Entry} entry @param {Encoding[]} encodings */
function encodingField(entry, encodings) {
  const select = make("select", {
    onchange: async () => {
      entry.file.encoding = select.value;
      entry.brings = await inspectAgain(entry.file);
      draw();
    },
  });
  for (const { name, label, sample } of encodings) {
    select.append(make("option", { value: name, textContent: sample ? `${label}: ${sample}` : label }));
  }
  const field = make("label", { className: "jet-field" });
  field.append(make("b", { textContent: "Read as" }), select);
  return field;
}

/** @param {Entry} entry @param {Found} found @param {boolean} alone */
function card(entry, found, alone) {
  const box = make("section", { className: "jet-found" });
  const name = found.title && found.title !== found.name ? `${found.title} (${found.name})` : found.name;
  box.append(make("h3", { textContent: name, dir: "auto" }));
  if (found.refused) {
    box.append(make("p", { className: "jet-bad", textContent: found.refused }));
    return box;
  }
  const brings = found.brings?.length ? `: ${found.brings.join(", ")}` : "";
  box.append(make("p", { textContent: `${found.kind}${brings}.` }));
  if (found.encodings) box.append(encodingField(entry, found.encodings));
  if (found.losses?.length) {
    const list = make("ul");
    list.append(...found.losses.map((textContent) => make("li", { textContent })));
    box.append(make("p", { textContent: "What a story here cannot keep of it:" }), list);
  }
  const tools = make("div", { className: "jet-files" });
  if (alone) tools.append(button(found.onlyGuidance ? "Open as a new story" : "Open", () => open(entry)));
  if (found.hasGuidance && entry.brings.length === 1) {
    tools.append(
      button(`Add ${found.onlyGuidance ? "" : "its memory and lore "}to this story`, () => addToStory(entry)),
    );
  }
  box.append(tools);
  return box;
}

/** Keeps all stories of the files beside the one that is open. */
async function keepAll() {
  let [kept, lost] = [0, 0];
  for (const { file } of shown.filter(({ brings }) => brings.some(({ refused }) => !refused))) {
    const arrived = await new Promise((resolve) => {
      order({ type: "unpack", ...file }, (reply) => resolve(reply.arrived ?? []));
    });
    for (const story of arrived) {
      if (story.refused) continue;
      if (storage.addStory(story)) kept += 1;
      else lost += 1;
    }
  }
  close();
  showStories();
  const stories = kept === 1 ? "1 story is" : `${kept} stories are`;
  const full = `This browser’s storage is full: ${lost} could not be kept. Save and remove some, and try again.`;
  say(lost ? full : `${stories} in the list now.`, { bad: lost > 0 });
}

function draw() {
  const [only, more] = shown;
  const alone = !more && only?.brings.length === 1;
  const stories = shown.flatMap(({ brings }) => brings).filter(({ refused }) => !refused);
  const cards = shown.flatMap((entry) => entry.brings.map((found) => card(entry, found, alone)));
  const tools = make("div", { className: "jet-files" });
  if (!alone && stories.length) {
    tools.append(
      button(
        stories.length === 1 ? "Keep it in the list" : `Keep all ${stories.length} in the list`,
        keepAll,
      ),
    );
  }
  tools.append(button("Cancel", close, "jet-quiet"));
  const head = make("h2", {
    textContent: alone ? "Before it is opened" : `${stories.length} of ${cards.length} can be read`,
  });
  head.tabIndex = -1;
  byId("jet-review").replaceChildren(head, ...cards, tools);
  head.focus();
}

/**
 * Shows what files bring, with what to do with them.
 * @param {Entry[]} found
 * @param {(file: Picked) => Promise<Found[]>} inspect
 */
export function showReview(found, inspect) {
  [shown, inspectAgain] = [found, inspect];
  openDrawer("stories");
  draw();
  byId("jet-review").scrollIntoView({ block: "nearest" });
}
