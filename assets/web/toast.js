// One line that is said for some seconds, with at most one button; and what a screen reader is told.

import { byId, make, makeButton } from "./dom.js";

const [SHORT_MS, ERROR_MS, OFFER_MS] = [5000, 9000, 30_000];
let timer = 0;

/**
 * Says something.
 * @param {string} text
 * @param {{ bad?: boolean, offer?: { label: string, write: object } | null, undo?: boolean }} [options] `offer` is a
 *   button that starts a generation, and `undo` one that takes back; their clicks are handled where all commands are
 */
export function say(text, { bad = false, offer = null, undo = false } = {}) {
  const line = document.getElementById("jet-toast") ?? make("div", { id: "jet-toast" });
  line.setAttribute("role", bad ? "alert" : "status");
  line.textContent = text;
  if (offer) {
    const button = makeButton({ className: "jet-offer", textContent: offer.label });
    button.dataset.generate = JSON.stringify(offer.write);
    line.append(button);
  }
  if (undo) {
    const button = makeButton({ className: "jet-offer", textContent: "Undo" });
    button.dataset.command = JSON.stringify({ type: "undo" });
    line.append(button);
  }
  line.className = bad ? "jet-bad" : "";
  byId("jet-editor-column").append(line);
  clearTimeout(timer);
  timer = setTimeout(() => line.remove(), offer || undo ? OFFER_MS : bad ? ERROR_MS : SHORT_MS);
}

/** Tells a screen reader how things stand. @param {string} text */
export function announce(text) {
  byId("jet-state").textContent = text;
}

/** Tells a screen reader how a generation has ended. */
export function announceEnd() {
  const status = document.querySelector(".jet-status")?.textContent ?? "";
  announce(/^(Done|Stopped|That did not|Connection)/.test(status) ? status : `Done. ${status}`);
}
