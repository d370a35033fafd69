// A field in the place of an element while a name is typed.

import { make } from "./dom.js";

/** @type {HTMLInputElement | null} */
let open = null;

/** Tells whether a name is being typed inside an element. @param {Node} place */
export const isNaming = (place) => open !== null && place.contains(open);

/**
 * Asks for a name. What is typed is kept on Enter and when the focus leaves, unless Escape is pressed.
 * @param {HTMLElement} element hidden meanwhile
 * @param {string} label
 * @param {string} value
 * @param {(name: string) => void} keep
 */
export function askName(element, label, value, keep) {
  const properties = { className: "jet-name", value, maxLength: 200, placeholder: "a name, then Enter" };
  const field = make("input", properties, { "aria-label": label });
  /** @param {boolean} wanted @param {boolean} refocus */
  const close = (wanted, refocus) => {
    if (open !== field) return;
    open = null;
    element.hidden = false;
    field.remove();
    if (refocus) element.focus();
    if (wanted) keep(field.value);
  };
  field.addEventListener("keydown", (event) => {
    if (!["Enter", "Escape"].includes(event.key)) return;
    event.stopPropagation(); // it stops no generation
    event.preventDefault();
    close(event.key === "Enter", true);
  });
  field.addEventListener("blur", () => close(field.value !== value, false));
  element.hidden = true;
  element.after(field);
  open = field;
  field.focus();
  field.select();
}
