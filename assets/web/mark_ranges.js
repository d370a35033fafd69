// Marked ranges of a text, as a flat list: start, end, level, start, end, level, … in order. No DOM.

/**
 * Finds the last index of a sorted list whose value is at most `value`; 0 if there is none.
 * @param {number} length
 * @param {(index: number) => number} valueAt
 * @param {number} value
 */
export function lastAtMost(length, valueAt, value) {
  let [low, high] = [0, length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (valueAt(middle) <= value) low = middle + 1;
    else high = middle;
  }
  return Math.max(0, low - 1);
}

/**
 * Moves marks along with their words when `removed` units at `at` give way to `added` ones.
 * @param {number[]} marks
 * @param {number} at
 * @param {number} removed
 * @param {number} added
 * @param {boolean} byModel mark the new words with level 0
 * @returns {number[]} adjacent ranges of one level are joined
 */
export function shiftMarks(marks, at, removed, added, byModel) {
  /** @type {number[]} */
  const moved = [];
  /** @param {number} start @param {number} end @param {number} level */
  const put = (start, end, level) => {
    const last = moved.length - 3;
    if (start >= end) return;
    if (last >= 0 && moved[last + 1] === start && moved[last + 2] === level) moved[last + 1] = end;
    else moved.push(start, end, level);
  };
  let due = byModel;
  const putNew = () => {
    if (due) put(at, at + added, 0);
    due = false;
  };
  const rest = at + removed;
  for (let index = 0; index < marks.length; index += 3) {
    const [start, end, level] = [marks[index], marks[index + 1], marks[index + 2]];
    put(Math.min(start, at), Math.min(end, at), level);
    if (end > at) putNew();
    if (end > rest) put(Math.max(start, rest) + added - removed, end + added - removed, level);
  }
  putNew();
  return moved;
}

/**
 * Narrows a part of a line to what can be seen: no blanks at its ends.
 * @param {string} line
 * @param {number} start may be before the line
 * @param {number} end may be behind it
 * @returns {[number, number]}
 */
export function withoutBlanks(line, start, end) {
  const from = Math.max(0, start);
  const part = line.slice(from, Math.max(0, end));
  const first = from + part.length - part.trimStart().length;
  return [first, first + part.trim().length];
}
