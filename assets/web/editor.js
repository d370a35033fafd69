// The text box of the story: its text, caret and input method.
//
// Gradio sets the box's value, which moves the caret to the end and takes no account of who is typing. So the value of
// this one box is a property of ours: what Gradio sets goes to the handler of `onIncomingText`.

import { hasMouse } from "./dom.js";
import { findEdit, moveOffset } from "./text_edits.js";

/** @type {HTMLTextAreaElement | null} */
let box = null;
/** @type {(text: string) => void} */
let receive = () => {};
/** @type {string | null} */
let lastPut = null;
let ownChanges = 0; // how deep the page is in changes of its own
let composing = false; // an input method has letters that are not final
/** @type {(() => void)[]} */
let waiting = []; // for the end of that

const nativeValue = () =>
  /** @type {Required<PropertyDescriptor>} */ (
    Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value")
  );

/** @param {HTMLTextAreaElement} element */
function adopt(element) {
  const { get } = nativeValue();
  element.dir = "auto";
  Object.defineProperty(element, "value", {
    configurable: true,
    get() {
      return get.call(this);
    },
    set(text) {
      receive(String(text ?? ""));
    },
  });
}

/** The text box. Gradio may have put another one on the page since it was asked for last. @returns {HTMLTextAreaElement} */
export function editor() {
  if (!box?.isConnected) {
    box = document.querySelector("#jet-story textarea");
    if (box) adopt(box);
  }
  return /** @type {HTMLTextAreaElement} */ (box);
}

/** Names what gets the texts that Gradio puts into the box. @param {(text: string) => void} handler */
export function onIncomingText(handler) {
  receive = handler;
}

/**
 * Makes this the text. The caret stays with its words or goes to `at`; the view stays.
 * @param {string} text
 * @param {number | null} [at]
 */
export function putText(text, at = null) {
  lastPut = text;
  const element = editor();
  const before = element.value;
  if (before !== text) {
    const change = findEdit(before, text);
    const { selectionStart, selectionEnd, selectionDirection, scrollTop } = element;
    nativeValue().set.call(element, text);
    const [start, end] = [moveOffset(selectionStart, change), moveOffset(selectionEnd, change)];
    element.setSelectionRange(start, end, selectionDirection);
    element.scrollTop = scrollTop;
  }
  if (at !== null) placeCaret(at);
}

/** Puts the caret somewhere. @param {number} at */
export function placeCaret(at) {
  editor().setSelectionRange(at, at);
}

/** The text that the page has put last. */
export const lastPutText = () => lastPut;

/** Makes a change that is not the writer's. @template T @param {() => T} change */
export function asOwnChange(change) {
  ownChanges += 1;
  try {
    return change();
  } finally {
    ownChanges -= 1;
  }
}
/** Tells whether the page itself is changing the text. */
export const isOwnChange = () => ownChanges > 0;

/** Tells Gradio the text; it follows the box's input events. */
export function tellGradio() {
  asOwnChange(() => editor().dispatchEvent(new Event("input", { bubbles: true })));
}

/** Tells whether an input method has letters that are not final. */
export const isComposing = () => composing;
/** Waits for an input method, which would lose its letters if the text changed under them. @returns {Promise<void>} */
export function whenComposed() {
  return new Promise((resolve) => {
    if (composing) waiting.push(resolve);
    else resolve();
  });
}
/** Makes an input method's letters text. */
export function commitComposition() {
  if (!composing) return;
  editor().blur();
  composing = false;
  editor().focus({ preventScroll: true });
}

/** Brings the writer back to the story if the focus is nowhere. Not with a finger: that would bring up the keyboard. */
export function focusIfLost() {
  const { activeElement } = document;
  const lost = activeElement === document.body || activeElement?.matches("button:disabled");
  if (hasMouse() && lost) editor().focus({ preventScroll: true });
}

/** Starts watching input methods. */
export function install() {
  document.addEventListener(
    "compositionstart",
    ({ target }) => {
      composing = target === editor();
    },
    true,
  );
  document.addEventListener(
    "compositionend",
    ({ target }) => {
      if (target !== editor()) return;
      setTimeout(() => {
        // After the input event that ends it.
        composing = false;
        const resolved = waiting;
        waiting = [];
        for (const resolve of resolved) resolve();
      });
    },
    true,
  );
}
