// Variants: several continuations side by side, of which the writer picks one.

import { all, byId } from "./dom.js";
import { state } from "./page_state.js";

let shownFor = 0; // the generation whose variants came last; the first of them may come after its end

/** @returns {number[]} the branches that the variants are */
const branches = () => all("#jet-ways .jet-take").map(({ dataset }) => JSON.parse(dataset.do ?? "{}").branch);

/** Marks the variants as those of a story or a generation before: none can be picked. */
export const markPicked = () => byId("jet-ways").classList.add("jet-picked");
/** A generation begins: the last one's variants cannot be picked in it. */
export const markPast = () => byId("jet-ways").classList.add("jet-before");
/** It has ended. */
export const unmarkPast = () => byId("jet-ways").classList.remove("jet-before");

/** Drops variants whose branches the story no longer has. @param {number[]} existing */
export function keepOnly(existing) {
  if (!branches().every((branch) => existing.includes(branch))) markPicked();
}

/** Starts watching for the first variant of a generation. */
export function install() {
  new MutationObserver(() => {
    const place = byId("jet-ways");
    const three = /** @type {HTMLElement | null} */ (place.querySelector(".jet-three"));
    const generation = Number(three?.dataset.n);
    if (generation !== state.generation || generation === shownFor) return;
    shownFor = generation;
    place.classList.remove("jet-before", "jet-picked");
  }).observe(byId("jet-ways"), {
    subtree: true,
    childList: true,
    characterData: true,
    attributeFilter: ["data-n"],
  });
}
