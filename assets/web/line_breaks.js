// Line breaks of other programs become "\n": Word's soft break (a vertical tab), form feeds, Unicode's own. No DOM.

const FOREIGN = /[\v\f\u0085\u2028\u2029]/;
const EVERY_FOREIGN = new RegExp(FOREIGN, "g");
const TYPED_BY_KEY = /^(delete|insert(Text|LineBreak|CompositionText)$)/;

/**
 * Tells whether an input event may have brought foreign line breaks. Keys write none, and a long text is not
 * searched at every key.
 * @param {string} [inputType]
 * @param {string | null} [data]
 */
export function mayBringLineBreaks(inputType = "", data = null) {
  return !TYPED_BY_KEY.test(inputType) || FOREIGN.test(data ?? "");
}

/**
 * Replaces foreign line breaks; each is one unit before and after, so offsets stay.
 * @param {string} text
 */
export function normalizeLineBreaks(text) {
  return FOREIGN.test(text) ? text.replace(EVERY_FOREIGN, "\n") : text;
}
