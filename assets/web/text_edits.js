// Arithmetic on texts and offsets, in UTF-16 units. No DOM.

/**
 * An edit: the characters from `from` to before `to` give way to `text`.
 * @typedef {{ from: number, to: number, text: string }} Edit
 */

/**
 * Counts how many of at most `most` characters two texts share, at their start or at their end.
 *
 * Bisects with slices, so that the engine's own string comparison does the work: a million characters take no
 * measurable time.
 * @param {string} one
 * @param {string} other
 * @param {number} most
 * @param {boolean} atEnd
 */
function countShared(one, other, most, atEnd) {
  /** @param {number} from @param {number} to */
  const same = (from, to) =>
    atEnd
      ? one.slice(one.length - to, one.length - from) === other.slice(other.length - to, other.length - from)
      : one.slice(from, to) === other.slice(from, to);
  let [low, high] = [0, most];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (same(low, middle)) low = middle;
    else high = middle - 1;
  }
  return low;
}

/**
 * Finds the edit that turns one text into another, with the length of the text that it applies to.
 *
 * Repeated characters allow several answers; the edit is then taken to end at `cursor`: " a" typed between
 * "b" and " c" is " a", not "a ".
 * @param {string} before
 * @param {string} now
 * @param {number} [cursor] offset in `now`
 * @returns {Edit & { of: number }}
 */
export function findEdit(before, now, cursor = now.length) {
  const tail = before.endsWith(now.slice(cursor)) ? now.length - cursor : 0;
  const most = Math.min(before.length, now.length) - tail;
  const from = countShared(before, now, most, false);
  const [oldHead, newHead] = [before.slice(0, before.length - tail), now.slice(0, now.length - tail)];
  const behind = tail + countShared(oldHead, newHead, most - from, true);
  return { of: before.length, from, to: before.length - behind, text: now.slice(from, now.length - behind) };
}

/**
 * Applies an edit to a text.
 * @param {string} text
 * @param {Edit} edit
 */
export function applyEdit(text, { from, to, text: added }) {
  return text.slice(0, from) + added + text.slice(to);
}

/**
 * Moves an offset along with its words when a text is edited.
 * @param {number} at
 * @param {Edit} edit
 */
export function moveOffset(at, { from, to, text }) {
  if (at <= from) return at;
  return at >= to ? at + text.length - (to - from) : from + text.length;
}

/**
 * Puts what was typed into one version of a text onto another version.
 *
 * Typing at the caret (at `was`, when the edit was made) goes to where the caret is now, `at`; typing anywhere
 * else moves along with its words.
 * @param {string} text the version to type into
 * @param {number} at the caret in it
 * @param {Edit} typed
 * @param {number} was the caret in the version that was typed into
 * @param {Edit} change leads from that version to `text`
 * @returns {{ text: string, at: number }} the text and the caret behind what was typed
 */
export function overlayEdit(text, at, typed, was, change) {
  const atCaret = typed.from <= was && was <= typed.to;
  const end = atCaret ? at : Math.min(text.length, moveOffset(typed.to, change));
  const start = Math.max(0, end - (typed.to - typed.from));
  return { text: applyEdit(text, { from: start, to: end, text: typed.text }), at: start + typed.text.length };
}
