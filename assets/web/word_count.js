// Counts the words of a story, also while it grows to a megabyte. No DOM.
//
// A word is a run of letters and digits, with the apostrophes and hyphens inside it. Chinese and Japanese are written
// without blanks: there each character counts, as writers of them count.

import { findEdit } from "./text_edits.js";

const WORDS =
  /\p{Script=Han}|[\p{Script=Hiragana}\p{Script=Katakana}ー]|(?:(?![\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}])[\p{L}\p{N}\p{M}])+(?:['’\-‑.](?![\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}])[\p{L}\p{N}\p{M}]+)*/gu;
const WORDS_A_MINUTE = 240; // read by most people, of prose
const LETTER = /[\p{L}\p{N}\p{M}'’\-‑.]/u;

/** Counts the words of a text. @param {string} text */
export function countWords(text) {
  return text.match(WORDS)?.length ?? 0;
}

/** The minutes that reading takes, at least one. @param {number} words */
export const readingMinutes = (words) => Math.max(1, Math.round(words / WORDS_A_MINUTE));

/** The whole words around a part of a text, so that a word that is being typed is not counted twice. @param {string} text @param {number} from @param {number} to @returns {[number, number]} */
function wholeWords(text, from, to) {
  let [start, end] = [from, to];
  while (start > 0 && LETTER.test(text[start - 1])) start -= 1;
  while (end < text.length && LETTER.test(text[end])) end += 1;
  return [start, end];
}

/** Counts on: of a change only the words around it are counted again. */
export class WordTally {
  #text = "";
  #words = 0;

  /** The words of the text that was told last. */
  get words() {
    return this.#words;
  }

  /** Takes a text, and returns its words. @param {string} text */
  update(text) {
    if (text === this.#text) return this.#words;
    const { from, to, text: added } = findEdit(this.#text, text);
    const [start, end] = wholeWords(this.#text, from, to);
    const newEnd = end + text.length - this.#text.length;
    const [from2, to2] = wholeWords(text, Math.min(start, from), Math.max(newEnd, from + added.length));
    const shift = this.#text.length - text.length;
    this.#words += countWords(text.slice(from2, to2)) - countWords(this.#text.slice(from2, to2 + shift));
    this.#text = text;
    return this.#words;
  }
}
