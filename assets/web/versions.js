// The versions of a continuation, which Retry makes: two arrows beside it walk them in place.

import { byId, make, makeButton } from "./dom.js";

/** @typedef {{ at: number, of: number, previous: number | null, next: number | null }} Versions */

/** @param {string} sign @param {string} label @param {number | null} branch */
function arrow(sign, label, branch) {
  const button = makeButton({ textContent: sign, title: label }, label);
  if (branch === null) button.disabled = true;
  else button.dataset.command = JSON.stringify({ type: "select_branch", branch });
  return button;
}

/** @param {HTMLElement} place @param {string} label @returns {HTMLElement | null} */
const byLabel = (place, label) => place.querySelector(`[aria-label="${label}"]`);

/** Shows where among its versions the story stands. @param {Versions | null} versions */
export function showVersions(versions) {
  const place = byId("jet-walk");
  const focused =
    place.contains(document.activeElement) && document.activeElement?.getAttribute("aria-label");
  place.replaceChildren();
  if (!versions) return;
  const { at, of, previous, next } = versions;
  place.append(
    arrow("‹", "Previous version", previous),
    make("span", { textContent: `${at}/${of}`, title: `Version ${at} of ${of}` }),
    arrow("›", "Next version", next),
  );
  if (focused) byLabel(place, focused)?.focus();
}
