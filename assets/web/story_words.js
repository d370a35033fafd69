// The words of the story, of what is selected, and of this session, in the line on top; and the tab's title.

import { byId, field } from "./dom.js";
import { editor } from "./editor.js";
import { fullText } from "./stream_overlay.js";
import { countWords, WordTally } from "./word_count.js";

const [PAUSE_MS, LONG_PAUSE_MS] = [250, 1200];
const [LONG, LONGEST_SELECTION] = [200_000, 200_000]; // units

let tally = new WordTally();
/** @type {number | null} */
let atFirst = null; // words when the story was opened
let timer = 0;

/** @param {number} number */
const words = (number) => `${number.toLocaleString()} ${number === 1 ? "word" : "words"}`;

function show() {
  timer = 0;
  if (!editor()) return;
  const total = tally.update(fullText() ?? "");
  atFirst ??= total;
  const { selectionStart, selectionEnd, value } = editor();
  const length = selectionEnd - selectionStart;
  const selected =
    length && length <= LONGEST_SELECTION ? countWords(value.slice(selectionStart, selectionEnd)) : 0;
  const since = total - atFirst;
  const session = since > 0 && since < total ? ` · ${since.toLocaleString()} new` : "";
  byId("jet-words").textContent = selected
    ? `${selected.toLocaleString()} of ${words(total)}`
    : total
      ? `${words(total)}${session}`
      : "";
}

/** Counts again soon. */
export function showSoon() {
  timer = timer || setTimeout(show, (editor()?.value.length ?? 0) > LONG ? LONG_PAUSE_MS : PAUSE_MS);
}

/** Another story is on the sheet: its session begins. */
export function beginSession() {
  tally = new WordTally();
  atFirst = null;
  showSoon();
}

/** The words written since the story was opened; negative if there are fewer now. */
export const sessionWords = () => tally.words - (atFirst ?? tally.words);

/** Shows the story's title in the browser's tab. */
export function showTabTitle() {
  const title = field("jet-title").value.trim();
  document.title = title ? `${title} · Jet Stories` : "Jet Stories";
}

/** Starts watching the selection and the title. */
export function install() {
  document.addEventListener("selectionchange", () => {
    if (document.activeElement === editor()) showSoon();
  });
  document.addEventListener("input", ({ target }) => {
    if (/** @type {Element} */ (target).id === "jet-title") showTabTitle();
  });
}
