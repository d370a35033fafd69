// Keyboard shortcuts. No DOM but the event given.
//
// They go by the letter on the key, not by its place, which another keyboard gives to another letter, and never take
// a key that writes a character: AltGr is not Alt, and on a Mac Option writes, so that Ctrl goes with it.

/** @typedef {"stop" | "cursor" | "go" | "ask" | "undo" | "redo" | "retry" | "word" | "fork"} Shortcut */

const FIELDS =
  "textarea, select, [contenteditable], " +
  "input:not([type=range], [type=checkbox], [type=radio], [type=file], [type=button])";

/** Tells from `navigator` whether this is a Mac or an iPhone. @param {any} [system] */
export function isApple(system = globalThis.navigator) {
  return /mac|iphone|ipad/i.test(system?.userAgentData?.platform || system?.platform || "");
}

/**
 * The Latin letter of a key; where the keyboard has other letters, that of its place.
 * @param {KeyboardEvent} event
 * @param {boolean} apple
 */
function letterOf({ key, code }, apple) {
  if (/^[a-z]$/i.test(key)) return key.toLowerCase();
  const foreign = /^\p{L}$/u.test(key) && !/^\p{Script=Latin}$/u.test(key);
  return foreign || (apple && key !== "Dead") ? (/^Key([A-Z])$/.exec(code)?.[1].toLowerCase() ?? "") : "";
}

/** @param {KeyboardEvent} event */
const isAltGraph = (event) => event.getModifierState?.("AltGraph") ?? false;
/** @param {KeyboardEvent} event */
const hasControl = (event) => (event.ctrlKey || event.metaKey) && !event.altKey && !isAltGraph(event);
/** @param {KeyboardEvent} event @param {boolean} apple */
const hasAlt = (event, apple) =>
  event.altKey && !event.metaKey && event.ctrlKey === apple && !isAltGraph(event);

/**
 * Names what a key press does, or null if it is for the text.
 * @param {KeyboardEvent} event
 * @param {Element | null} editor Undo in any other field is that field's own
 * @param {boolean} [apple]
 * @returns {Shortcut | null}
 */
export function findShortcut(event, editor, apple = isApple()) {
  const { key, shiftKey, isComposing, keyCode } = event;
  const target = /** @type {Element} */ (event.target);
  if (isComposing || keyCode === 229) return null;
  if (key === "Escape") return "stop";
  if (key === "Enter" && hasControl(event)) return shiftKey ? "cursor" : "go";
  if (key === "Enter" && target.id === "jet-about-what") return "ask";
  const letter = letterOf(event, apple);
  if (hasControl(event) && (target === editor || !target.closest?.(FIELDS))) {
    if (letter === "z") return shiftKey ? "redo" : "undo";
    if (letter === "y" && !shiftKey) return "redo";
  }
  if (!hasAlt(event, apple) || shiftKey) return null;
  return /** @type {Record<string, Shortcut>} */ ({ r: "retry", w: "word", b: "fork" })[letter] ?? null;
}

/**
 * Tells whether a key press is a shortcut, or with Alt might be one.
 * @param {KeyboardEvent} event
 * @param {Element | null} editor
 * @param {boolean} [apple]
 */
export function isShortcut(event, editor, apple = isApple()) {
  return findShortcut(event, editor, apple) !== null || hasAlt(event, apple);
}

/** Tells whether a key press writes, or begins something that does. @param {KeyboardEvent} event */
export function isWritingKey({ key, ctrlKey, metaKey, altKey, isComposing, keyCode }) {
  if (isComposing || keyCode === 229 || key === "Dead" || key === "Process") return true;
  if ((ctrlKey || metaKey) && !altKey) return /^[vx]$/i.test(key);
  return key.length === 1 || ["Enter", "Backspace", "Delete"].includes(key);
}
