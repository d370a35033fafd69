// Reads the story aloud with the browser's voices, from the cursor or what is selected, and points at the words.

import { byId, field, make, targetOf } from "./dom.js";
import { editor } from "./editor.js";
import { pointAt } from "./highlights.js";
import { sentencesOf } from "./sentences.js";
import { say } from "./toast.js";
import { reveal } from "./viewport.js";

const NONE =
  "This browser has no voices. On most systems they are installed in the settings for reading aloud.";
/** @type {[number, number][]} */
let rest = []; // sentences that are to be read
let text = "";
let reading = false;

const speech = () => /** @type {SpeechSynthesis | undefined} */ (globalThis.speechSynthesis);
const voices = () => speech()?.getVoices() ?? [];

function showVoices() {
  const choice = field("jet-voice");
  const before = choice.value;
  choice.replaceChildren(
    make("option", { value: "", textContent: "the browser’s own voice" }),
    ...voices().map(({ name, lang }) => make("option", { value: name, textContent: `${name} (${lang})` })),
  );
  choice.value = voices().some(({ name }) => name === before) ? before : "";
}

/** Stops reading. */
export function stopReading() {
  rest = [];
  reading = false;
  speech()?.cancel();
  pointAt();
  byId("jet-read").textContent = "Read aloud";
}

function readNext() {
  const sentence = rest.shift();
  if (!reading || !sentence || editor().value !== text) {
    stopReading();
    return;
  }
  const [start, end] = sentence;
  const said = new SpeechSynthesisUtterance(text.slice(start, end));
  const voice = voices().find(({ name }) => name === field("jet-voice").value);
  if (voice) said.voice = voice;
  said.rate = Number(field("jet-rate").value) || 1;
  said.onstart = () => {
    pointAt(start, end);
    reveal(start);
  };
  said.onboundary = ({ name, charIndex, charLength }) => {
    if (reading && name === "word" && charLength) pointAt(start + charIndex, start + charIndex + charLength);
  };
  said.onend = readNext;
  said.onerror = () => {
    if (reading) stopReading();
  };
  speech()?.speak(said);
}

function toggle() {
  if (reading) {
    stopReading();
    return;
  }
  if (!speech() || !voices().length) {
    say(NONE, { bad: true });
    return;
  }
  const { selectionStart, selectionEnd, value } = editor();
  text = value;
  const chosen = selectionStart < selectionEnd;
  const lineStart = value.lastIndexOf("\n", selectionStart - 1) + 1;
  const atEnd = !value.slice(selectionStart).trim();
  const from = chosen ? selectionStart : atEnd ? 0 : lineStart;
  rest = sentencesOf(value, from, chosen ? selectionEnd : value.length);
  if (!rest.length) return;
  reading = true;
  byId("jet-read").textContent = "Stop reading";
  readNext();
}

/** Starts watching the button. */
export function install() {
  showVoices();
  speech()?.addEventListener?.("voiceschanged", showVoices);
  document.addEventListener("click", (event) => {
    if (targetOf(event).closest?.("button")?.id === "jet-read") toggle();
  });
  addEventListener("pagehide", () => speech()?.cancel());
}
