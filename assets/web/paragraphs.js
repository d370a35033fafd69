// For which texts the blank lines between paragraphs may be drawn narrow. No DOM.

const [LONGEST, SAMPLE, MOST_OTHER] = [12_000, 4000, 0.1];
const LONG_PARAGRAPH = /[^\n]{2000}/;
// Scripts that the sheet's own face does not have; the height of a line is that of its letters then.
const OTHER_SCRIPTS = /[\u0370-\u03ff\u0530-\u1dff\u2e80-\ud7ff\uf900-\ufdff\ufe70-\uffef]/g;

/**
 * Tells whether blank lines may be narrow: not in a long text or paragraph, which a browser would lay out two to eight
 * times as long at each new word, nor in scripts whose lines would come too close.
 * @param {string} text
 */
export function mayBeNarrow(text) {
  if (text.length > LONGEST || LONG_PARAGRAPH.test(text)) return false;
  const sample = text.slice(0, SAMPLE);
  return (sample.match(OTHER_SCRIPTS)?.length ?? 0) <= sample.length * MOST_OTHER;
}
