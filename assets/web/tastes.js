// Sliders in a writer's words, each of which sets several numbers of the samplers. Numbers of the writer's own are told.

import { order } from "./commands.js";
import { all, targetOf } from "./dom.js";
import { settings } from "./page_state.js";

/** @type {Record<string, unknown>} */
let known = {}; // the controls as they stand

/** @param {HTMLElement} slider @returns {Record<string, number>[]} */
const levelsOf = (slider) => JSON.parse(slider.dataset.levels ?? "[]");

/** @param {HTMLElement} slider @param {string} name */
function say(slider, name) {
  const output = slider.closest("label")?.querySelector("small");
  if (output) output.textContent = name;
  slider.setAttribute("aria-valuetext", name);
}

/** @param {HTMLInputElement} slider */
const sayLevel = (slider) =>
  say(slider, JSON.parse(slider.dataset.names ?? "[]")[Number(slider.value)] ?? "");

/** Shows which level the controls stand at. @param {Record<string, unknown>} controls */
export function showTastes(controls) {
  known = controls;
  for (const one of all("[data-levels]")) {
    const slider = /** @type {HTMLInputElement} */ (one);
    const levels = levelsOf(slider);
    const [first] = Object.keys(levels[0]); // 0 when off, whatever the others are
    const isAt = (/** @type {Record<string, number>} */ level) =>
      Object.entries(level).every(([name, value]) => Number(controls[name] ?? 0) === value);
    const at = Number(controls[first] ?? 0) ? levels.findIndex(isAt) : 0;
    if (at >= 0) {
      slider.value = `${at}`;
      sayLevel(slider);
    } else {
      const nearest = levels.filter((level) => level[first] <= Number(controls[first])).length - 1;
      slider.value = `${Math.max(1, nearest)}`;
      say(slider, "own numbers");
    }
  }
}

/** @param {HTMLInputElement} slider */
function put(slider) {
  const preset = Object.fromEntries(
    settings.presetControls.flatMap((name) => (name in known ? [[name, known[name]]] : [])),
  );
  order({
    type: "apply_own_preset",
    settings: { ...preset, ...levelsOf(slider)[Number(slider.value)] },
  });
}

/** Starts watching the sliders. */
export function install() {
  for (const [kind, does] of /** @type {const} */ ([
    ["input", sayLevel],
    ["change", put],
  ])) {
    document.addEventListener(kind, (event) => {
      if (targetOf(event).dataset.levels) does(targetOf(event));
    });
  }
}
