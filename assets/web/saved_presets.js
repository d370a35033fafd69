// The writer's own presets: sampling settings under names, in this browser.

import { openStorage } from "./browser_storage.js";
import { byId, make, makeButton } from "./dom.js";

const KEY = "presets";
const [MOST, LONGEST_NAME] = [24, 24];
const storage = openStorage("localStorage");

/** Draws a button for each. @param {(settings: object) => void} use what pressing one does */
export function showPresets(use) {
  const drawn = Object.entries(storage.readObject(KEY)).map(([name, settings]) => {
    const title = `Remove the preset ${name}`;
    const remove = () => {
      const { [name]: _, ...others } = storage.readObject(KEY);
      storage.write(KEY, JSON.stringify(others));
      showPresets(use);
    };
    const both = make("span");
    both.append(
      makeButton({
        className: "jet-chip",
        textContent: name,
        title: "One of your own presets",
        onclick: () => use(settings),
      }),
      makeButton({ className: "jet-text-button", textContent: "×", title, onclick: remove }, title),
    );
    return both;
  });
  byId("jet-own-presets").replaceChildren(...drawn);
}

/**
 * Keeps settings under a name.
 * @param {string} asked
 * @param {object} settings
 * @returns {string | null} why that could not be done
 */
export function keepPreset(asked, settings) {
  const name = asked.trim().slice(0, LONGEST_NAME);
  const kept = storage.readObject(KEY);
  if (!name) return "A preset needs a name.";
  if (!(name in kept) && Object.keys(kept).length >= MOST) {
    return `There are ${MOST} presets of your own already: remove one first.`;
  }
  return storage.tryWrite(KEY, JSON.stringify({ ...kept, [name]: settings }))
    ? null
    : "Not saved: this browser’s storage is full or forbidden.";
}
