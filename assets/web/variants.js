// Variants: several continuations side by side, of which the writer picks one.

import { all, byId } from "./dom.js";
import { state } from "./page_state.js";

let shownFor = 0; // the generation whose variants came last; the first of them may come after its end

/** @returns {number[]} the branches that the variants are */
const branches = () =>
  all("#jet-variants .jet-select-variant").map(({ dataset }) => JSON.parse(dataset.command ?? "{}").branch);

/** Marks the variants as those of a story or a generation before: none can be picked. */
export const markPicked = () => byId("jet-variants").classList.add("jet-variant-chosen");
/** A generation begins: the last one's variants cannot be picked in it. */
export const markPast = () => byId("jet-variants").classList.add("jet-previous-variants");
/** It has ended. */
export const unmarkPast = () => byId("jet-variants").classList.remove("jet-previous-variants");

/** Drops variants whose branches the story no longer has. @param {number[]} existing */
export function keepOnly(existing) {
  if (!branches().every((branch) => existing.includes(branch))) markPicked();
}

/** Starts watching for the first variant of a generation. */
export function install() {
  new MutationObserver(() => {
    const place = byId("jet-variants");
    const three = /** @type {HTMLElement | null} */ (place.querySelector(".jet-variant-columns"));
    const generation = Number(three?.dataset.n);
    if (generation !== state.generation || generation === shownFor) return;
    shownFor = generation;
    place.classList.remove("jet-previous-variants", "jet-variant-chosen");
  }).observe(byId("jet-variants"), {
    subtree: true,
    childList: true,
    characterData: true,
    attributeFilter: ["data-n"],
  });
}
