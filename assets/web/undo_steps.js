// Splits typing into steps for Undo: a sentence, not an hour. No DOM.
//
// A step ends at the end of a sentence or line, before and after a paste, where typing gives way to deleting, and
// where the caret goes elsewhere.

import { findEdit } from "./text_edits.js";

/** @import { Edit } from "./text_edits.js" */

const LONG_RUN = 120; // characters without a sentence's end: the next blank ends the step
const LONGEST_RUN = 300; // and here any character does
const SENTENCE_END = /(?:[.!?…]["'”’»)\]]*[^\S\n]|\n|[。！？][」』”）]?)$/u;
const MAX_PLACES = 400;

/** @param {string} [inputType] of an input event */
function kindOf(inputType = "") {
  if (/^insert(Text|CompositionText|LineBreak|Paragraph)$/.test(inputType)) return "insert";
  return inputType.startsWith("delete") && !/Cut|Drag/.test(inputType) ? "delete" : "other";
}

export class UndoSteps {
  /** @type {string | null} the text that the unsent steps start from */
  #origin = null;
  /** @type {string | null} the text after the latest step */
  #last = null;
  /** @type {Edit[]} */
  #steps = [];
  #kind = "";
  #caret = -1; // where typing would go on
  #firstChange = Infinity; // the lowest offset changed since the latest step
  #run = 0; // characters since the latest step
  /** @type {{ from: number, removed: number, added: number }[]} where the latest steps were made */
  #places = [];

  /** Starts afresh from a text that the server has. @param {string | null} text */
  restart(text) {
    this.#origin = this.#last = text;
    this.#steps = [];
    this.#run = 0;
  }

  /**
   * Notes that the writer has made `now` of `before`.
   * @param {string} inputType of the input event
   * @param {string} before
   * @param {string} now
   * @param {number} cursor
   * @param {boolean} [composing] an input method has letters that are not final: no step ends in them
   */
  note(inputType, before, now, cursor, composing = false) {
    if (this.#origin === null) this.restart(before);
    const change = findEdit(before, now, cursor);
    const kind = kindOf(inputType);
    const goesOn = kind === "delete" ? [change.from, change.to] : [change.from];
    if (kind !== this.#kind || kind === "other" || !goesOn.includes(this.#caret)) this.#cut(before);
    this.#kind = kind;
    this.#firstChange = Math.min(this.#firstChange, change.from);
    this.#caret = cursor;
    this.#run += change.text.length + change.to - change.from;
    const ended =
      kind === "other" ||
      this.#run >= LONGEST_RUN ||
      (kind === "insert" && SENTENCE_END.test(now.slice(Math.max(0, cursor - 8), cursor))) ||
      (this.#run >= LONG_RUN && /\s$/.test(change.text));
    if (ended && !composing) this.#cut(now);
  }

  /**
   * Takes the steps that lead close to a text that is about to be sent; the next steps start from there.
   * @param {string | null} story null where no text is sent
   */
  take(story) {
    const taken = { origin: this.#origin, steps: this.#steps };
    this.#remember(story ?? this.#last);
    if (story !== null) this.restart(story);
    return taken;
  }

  /**
   * Finds where Undo or Redo changed a text, if it was typed there: " b" gone from "a b b" may be either.
   * @param {string} before
   * @param {string} now
   * @param {Edit} edit leads from `before` to `now`
   */
  placeOf(before, now, { from, to, text }) {
    const [removed, added] = [to - from, text.length];
    if (removed && added) return from;
    const [whole, size] = removed ? [before, removed] : [now, added];
    let least = from;
    while (least > 0 && from - least < size && whole[least - 1] === whole[least - 1 + size]) least -= 1;
    const place = this.#places.findLast(
      (step) =>
        step.from >= least &&
        step.from <= from &&
        ((step.added === removed && step.removed === added) ||
          (step.added === added && step.removed === removed)),
    );
    return place?.from ?? from;
  }

  /** @param {string | null} text @returns {Edit | null} */
  #remember(text) {
    if (this.#last === null || text === null || text === this.#last) return null;
    const edit = findEdit(this.#last, text);
    this.#places.push({
      from: Math.min(this.#firstChange, edit.from),
      removed: edit.to - edit.from,
      added: edit.text.length,
    });
    if (this.#places.length > MAX_PLACES) this.#places.shift();
    this.#firstChange = Infinity;
    return edit;
  }

  /** @param {string} text */
  #cut(text) {
    const edit = this.#remember(text);
    if (edit) this.#steps.push(edit);
    this.#last = text;
    this.#run = 0;
  }
}
