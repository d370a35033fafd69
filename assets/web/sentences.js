// Cuts a text into what is read aloud in one breath: sentences, and of very long ones parts. No DOM.

const LONGEST = 220; // letters; some browsers stop in the middle of what is longer
const END = /[.!?…]+["'”’»)\]]*(?=\s|$)|[。！？]+[」』”）]?|\n+/gu;

/** Finds the sentences between two places of a text. @param {string} text @param {number} from @param {number} to @returns {[number, number][]} */
export function sentencesOf(text, from, to) {
  /** @type {[number, number][]} */
  const found = [];
  /** @param {number} start @param {number} end */
  const add = (start, end) => {
    const said = text.slice(start, end);
    const first = start + said.length - said.trimStart().length;
    const last = start + said.trimEnd().length;
    if (first >= last || !/[\p{L}\p{N}]/u.test(said)) return;
    if (last - first <= LONGEST) {
      found.push([first, last]);
      return;
    }
    const part = text.slice(first, first + LONGEST);
    const pause = Math.max(...[", ", "; ", " – ", "，", "、"].map((sign) => part.lastIndexOf(sign)), 0);
    const cut = first + ((pause || part.lastIndexOf(" ")) + 1 || LONGEST);
    add(first, cut);
    add(cut, last);
  };
  let start = from;
  const slice = text.slice(from, to);
  for (const match of slice.matchAll(END)) {
    const end = from + match.index + match[0].length;
    add(start, end);
    start = end;
  }
  add(start, to);
  return found;
}
