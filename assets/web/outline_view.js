// The chapters in the drawer: a click jumps to one, dragging or the arrows move it.

import { byId, make, makeButton, targetOf } from "./dom.js";
import { openPart } from "./drawers.js";
import { editor } from "./editor.js";
import { moveSection, sectionsOf, withChildren } from "./outline.js";
import { changeText } from "./text_change.js";
import { reveal } from "./viewport.js";

const PAUSE_MS = 800;
let timer = 0;
let dragged = -1; // index of the section that is dragged

/** @param {number} index */
function jump(index) {
  const section = sectionsOf(editor().value)[index];
  if (!section) return;
  editor().focus({ preventScroll: true });
  editor().setSelectionRange(section.start, section.start);
  reveal(section.start);
}

/** @param {number} index @param {number} to */
function move(index, to) {
  const text = editor().value;
  const moved = moveSection(text, index, to);
  if (moved !== text && changeText(moved, Math.min(editor().selectionStart, moved.length))) show();
}

/** The section of the same rank before or behind one; none if there is none. @param {number} index @param {1 | -1} step */
function neighbor(index, step) {
  const sections = sectionsOf(editor().value);
  if (step === 1) {
    const next = index + withChildren(sections, index);
    return next < sections.length ? next + withChildren(sections, next) : null;
  }
  let before = index - 1;
  while (before > 0 && sections[before].level > sections[index].level) before -= 1;
  return before >= 0 ? before : null;
}

/** @param {import("./outline.js").Section} section @param {number} index */
function row({ title, level }, index) {
  const item = make("li", { draggable: true }, { "data-section": `${index}`, style: `--depth:${level - 1}` });
  item.append(
    make(
      "span",
      { className: "jet-handle", textContent: "⠿", title: "Drag to move" },
      { "aria-hidden": "true" },
    ),
    makeButton({ className: "jet-branch", textContent: title || "(no title)", onclick: () => jump(index) }),
  );
  for (const [sign, label, step] of /** @type {const} */ ([
    ["↑", "Move up", -1],
    ["↓", "Move down", 1],
  ])) {
    const to = neighbor(index, step);
    const button = makeButton(
      { className: "jet-text-button", textContent: sign, disabled: to === null },
      `${label}: ${title}`,
    );
    if (to !== null) button.onclick = () => move(index, to);
    item.append(button);
  }
  return item;
}

function show() {
  timer = 0;
  if (openPart() !== "tools") return;
  const sections = sectionsOf(editor().value);
  const place = byId("jet-outline");
  if (place.contains(document.activeElement) && place.children.length === sections.length) {
    const same = [...place.children].every(
      (item, at) => item.children[1]?.textContent === sections[at].title,
    );
    if (same) return;
  }
  place.replaceChildren(...sections.map(row));
  byId("jet-outline-hint").hidden = sections.length > 0;
}

/** Draws the outline again soon, if it can be seen. */
export function showSoon() {
  if (!timer && openPart() === "tools") timer = setTimeout(show, PAUSE_MS);
}

/** The section that an event is about; -1 if none. @param {Event} event */
const sectionOf = (event) =>
  Number(
    /** @type {HTMLElement | null} */ (targetOf(event).closest("[data-section]"))?.dataset.section ?? -1,
  );

/** Starts watching the outline. */
export function install() {
  document.addEventListener("click", (event) => {
    if (targetOf(event).closest("[data-tab]")) setTimeout(show);
  });
  const place = byId("jet-outline");
  place.addEventListener("dragstart", (event) => {
    dragged = sectionOf(event);
    event.dataTransfer?.setData("text/plain", "");
  });
  place.addEventListener("dragover", (event) => {
    if (dragged >= 0) event.preventDefault();
  });
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    const target = /** @type {HTMLElement | null} */ (targetOf(event).closest("[data-section]"));
    const onto = sectionOf(event);
    if (dragged < 0 || onto < 0 || !target) return;
    const { top, height } = target.getBoundingClientRect();
    const below = event.clientY > top + height / 2;
    move(dragged, below ? onto + withChildren(sectionsOf(editor().value), onto) : onto);
    dragged = -1;
  });
  place.addEventListener("dragend", () => {
    dragged = -1;
  });
}
