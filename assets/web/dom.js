// Finds and makes elements.

/** Finds an element that the page always has. @param {string} id @returns {HTMLElement} */
export const byId = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
/** Finds a field or button that the page always has. @param {string} id @returns {HTMLInputElement} */
export const field = (id) => /** @type {HTMLInputElement} */ (document.getElementById(id));
/** Finds all elements of a selector. @param {string} selector @param {ParentNode} [within] @returns {HTMLElement[]} */
export const all = (selector, within = document) =>
  [...within.querySelectorAll(selector)].map((one) => /** @type {HTMLElement} */ (one));

/**
 * Makes an element.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Partial<HTMLElementTagNameMap[T]>} [properties]
 * @param {Record<string, string>} [attributes]
 * @returns {HTMLElementTagNameMap[T]}
 */
export function make(tag, properties = {}, attributes = {}) {
  const element = document.createElement(tag);
  Object.assign(element, properties);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** Makes a button. @param {Partial<HTMLButtonElement>} properties @param {string} [label] for screen readers */
export function makeButton(properties, label) {
  return make("button", { type: "button", ...properties }, label ? { "aria-label": label } : {});
}

const TYPE = /** @type {const} */ (["family", "size", "stretch", "style", "variant", "weight"]);

/**
 * Gives an element the type and the padding of another: one by one, for in forced colors a browser tells no `font`.
 * @param {HTMLElement} from
 * @param {HTMLElement} to
 */
export function copyType(from, to) {
  const style = getComputedStyle(from);
  for (const name of [...TYPE.map((one) => `font-${one}`), "line-height", "letter-spacing", "padding"])
    to.style.setProperty(name, style.getPropertyValue(name));
}

/** The element that an event is about. @param {Event} event @returns {HTMLInputElement} */
export const targetOf = (event) => /** @type {HTMLInputElement} */ (event.target);

/** Tells whether the page is used with a mouse: focus does not bring up a keyboard then. */
export const hasMouse = () => matchMedia("(pointer: fine)").matches;
