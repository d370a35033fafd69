// How much Continue writes: chosen in a writer's measures, kept by the control of new tokens.

import { all, byId, field, targetOf } from "./dom.js";
import { openDrawer } from "./drawers.js";

const WORDS_A_TOKEN = 0.75;
const [FEWEST_WORDS, MOST_WORDS] = [1, 1500];

const tokensField = () =>
  /** @type {HTMLInputElement | null} */ (document.querySelector("#jet-tokens input[type=number]"));

/** @param {number} tokens */
function setTokens(tokens) {
  const control = tokensField();
  if (!control) return;
  control.value = `${tokens}`;
  for (const event of ["input", "change"]) control.dispatchEvent(new Event(event, { bubbles: true }));
}

/** Shows a number of new tokens. @param {number} tokens */
export function showLength(tokens) {
  const choice = /** @type {HTMLSelectElement} */ (/** @type {unknown} */ (field("jet-length")));
  const isNamed = [...choice.options].some(({ value }) => value === `${tokens}`);
  const own = /** @type {HTMLOptionElement} */ (choice.options[choice.options.length - 1]);
  const words = Math.max(FEWEST_WORDS, Math.round(tokens * WORDS_A_TOKEN));
  own.textContent = isNamed ? "own length…" : `about ${words} words`;
  choice.value = isNamed ? `${tokens}` : "";
  const typed = field("jet-length-words");
  if (document.activeElement !== typed) typed.value = `${words}`;
}

function choose() {
  const choice = field("jet-length");
  if (choice.value) setTokens(Number(choice.value));
  else {
    openDrawer("settings");
    byId("jet-length-words").focus();
  }
}

/** Starts watching the choice. */
export function install() {
  showLength(Number(tokensField()?.value ?? 0));
  document.addEventListener("change", (event) => {
    const target = targetOf(event);
    if (target.id === "jet-length") choose();
    else if (target.id === "jet-length-words") {
      const words = Math.min(
        MOST_WORDS,
        Math.max(FEWEST_WORDS, Math.round(Number(target.value)) || FEWEST_WORDS),
      );
      setTokens(Math.ceil(words / WORDS_A_TOKEN));
    }
  });
}

/** What the controls are set to at first. @returns {Record<string, unknown>} */
export const defaultPreset = () =>
  JSON.parse(
    /** @type {HTMLElement | null} */ (document.querySelector('[data-command*="balanced"]'))?.dataset
      .preset ?? "{}",
  );

/** Shows which preset the controls stand at. @param {Record<string, unknown>} controls */
export function showPreset(controls) {
  for (const chip of all("[data-preset]")) {
    const preset = Object.entries(JSON.parse(chip.dataset.preset ?? "{}"));
    chip.ariaPressed = `${preset.every(([name, value]) => !(name in controls) || `${controls[name]}` === `${value}`)}`;
  }
}
