// A generation from the click to its end: what is asked for, the new words as they come, and the page afterwards.

import * as alternatives from "./alternatives_popover.js";
import * as autoscroll from "./autoscroll.js";
import { takeGhost } from "./beginnings.js";
import {
  cancelSync,
  generationToSend,
  keepSoon,
  order,
  receive,
  send,
  syncSoon,
  TYPING_PAUSE_MS,
} from "./commands.js";
import { press, refreshButtons } from "./controls.js";
import { byId, field } from "./dom.js";
import { editor, focusIfLost, placeCaret } from "./editor.js";
import { parseObject } from "./event_stream.js";
import { forgetOlder } from "./highlights.js";
import { wishFields } from "./never_write.js";
import * as offers from "./offered_words.js";
import { settings, state, undoSteps } from "./page_state.js";
import * as stopOnTyping from "./stop_on_typing.js";
import { saveSoon } from "./storage.js";
import * as overlay from "./stream_overlay.js";
import { applyEdit } from "./text_edits.js";
import { announce, announceEnd } from "./toast.js";
import * as variants from "./variants.js";
import { reveal } from "./viewport.js";

/** @import { Command } from "./command_queue.js" */

const SETTLE_MS = 100; // Gradio may put the last text into the box a moment after the end
const UNLOCK_POLL_MS = 20;
const [DOUBLE_CLICK_MS, DOUBLE_CLICK_PX] = [500, 4];

/** @type {Command | null} */
let wanted = null; // what Continue is to do
/** @type {Command} */
let asked = { type: "continue" }; // what is being done
/** @type {Record<string, unknown>} */
let sampling = {};
let settleTimer = 0;
let pressedAt = { x: -1e9, y: -1e9, time: -1e9 }; // Continue, last

/** The model begins to write: from the click on, whatever has to be waited for. */
function begin() {
  clearTimeout(settleTimer);
  state.settling = false;
  asked = wanted ?? { type: "continue" };
  if (asked.type === "continue") takeGhost();
  cancelSync();
  wanted = null;
  stopOnTyping.begin(asked);
  state.generating = true;
  announce("Writing");
  state.generation = 0;
  autoscroll.begin(asked.type !== "variants");
  alternatives.close();
  offers.begin();
  forgetOlder();
  variants.markPast();
  field("jet-stop").disabled = false;
  setTimeout(() => {
    // A button that is disabled during its click has none.
    if (state.generating) field("jet-continue").disabled = true;
    refreshButtons();
    focusIfLost();
  });
}

/** Takes in the new words of a long story. */
function showPatch() {
  const carried = byId("jet-delta").querySelector(".jet-payload")?.textContent;
  if (!state.generating || !carried) return;
  const patch = JSON.parse(carried);
  if (patch.n !== state.generation) return; // of a generation before
  if (patch.behind !== undefined) stopOnTyping.setSuffix(patch.behind);
  if (patch.from === undefined || stopOnTyping.isStopping()) return;
  if (overlay.show(patch)) autoscroll.noteNewOverlay();
  saveSoon();
  if (autoscroll.isFollowing()) autoscroll.showEnd();
}

/** Tells whether a click on Stop is the second of a double click on Continue, whose place Stop has taken. @param {MouseEvent} event */
function isDoubleClick({ isTrusted, detail, timeStamp, clientX, clientY }) {
  const near = Math.hypot(clientX - pressedAt.x, clientY - pressedAt.y) < DOUBLE_CLICK_PX;
  return isTrusted && detail > 0 && near && timeStamp - pressedAt.time < DOUBLE_CLICK_MS;
}

/** @param {MouseEvent} event */
function onClick(event) {
  const target = /** @type {Element} */ (event.target);
  if (target.closest?.("#jet-continue") && !field("jet-continue").disabled) {
    if (!state.generating) {
      pressedAt = { x: event.clientX, y: event.clientY, time: event.timeStamp };
      begin();
      return;
    }
    // A second press is no second generation.
    event.stopImmediatePropagation();
    event.preventDefault();
  } else if (target.closest?.("#jet-stop")) {
    if (isDoubleClick(event)) {
      event.stopImmediatePropagation();
      event.preventDefault();
    } else stopOnTyping.noteStop();
  }
}

/** Starts watching Continue and Stop, and the new words. */
export function install() {
  const everything = { subtree: true, childList: true, characterData: true };
  new MutationObserver(showPatch).observe(byId("jet-delta"), everything);
  document.addEventListener("click", onClick, true);
}

/** @param {boolean} interactive */
const update = (interactive) => ({ __type__: "update", interactive });

/** Gradio has heard the click. Returns what Continue and Stop are to become. @param {unknown[]} values of the controls */
export function startGeneration(...values) {
  if (!state.generating) begin(); // clicked before the page was ready
  sampling = Object.fromEntries(settings.controls.map((name, index) => [name, values[index]]));
  return [update(false), update(true)];
}

/** The command that Gradio sends then. */
export function generationCommand() {
  return generationToSend(() => ({
    ...asked,
    ...(stopOnTyping.isStopping() ? { unwanted: true } : {}),
    settings: sampling,
    ...wishFields(),
  }));
}

/** The command that Gradio sends on Stop. */
export function stopCommand() {
  const { generation, known } = state;
  return JSON.stringify({ type: "stop", n: generation || -1, known, ...stopOnTyping.seenField() });
}

/** Puts caret and view where a writer expects them once the box has the new words. @param {number} below how far the reader was from the end @param {boolean} follows the caret */
function settleView(below, follows) {
  const suffix = stopOnTyping.suffix();
  const at = editor().value.length - (suffix ?? 0);
  if (follows && suffix !== null) placeCaret(at);
  if (!suffix) editor().scrollTop = editor().scrollHeight - below;
  else if (autoscroll.isFollowing()) reveal(at, { page: false });
  autoscroll.noteScroll();
}

/** The generation is done. Returns what Continue and Stop are to become. @param {string} text the reply */
export function endGeneration(text) {
  state.generating = false;
  const [base, plain] = [stopOnTyping.base(), parseObject(text)];
  /** @type {string | null} */
  const came = plain.story ?? (plain.patch ? applyEdit(base, plain.patch) : null);
  state.synced = plain.n === state.generation ? came : null;
  const reply = receive(text, state.generation);
  const [takenOver, follows] = [stopOnTyping.isTakenOver(), stopOnTyping.caretFollows()];
  const below = takenOver ? null : overlay.commit(reply.patch ?? undefined);
  const after = stopOnTyping.end(came);
  requestAnimationFrame(announceEnd);
  state.settling = true;
  undoSteps.restart(came ?? editor().value);
  if (below !== null) settleView(below, follows);
  variants.unmarkPast();
  refreshButtons();
  send();
  keepSoon();
  if (takenOver) syncSoon(TYPING_PAUSE_MS);
  const wrote = came !== null && came !== base;
  for (const what of after) setTimeout(() => what(wrote));
  settleTimer = setTimeout(() => {
    if (autoscroll.isFollowing() && !takenOver && !state.generating) autoscroll.showEnd();
    state.settling = false;
    focusIfLost();
  }, SETTLE_MS);
  return [update(true), update(false)];
}

/** Puts the caret's place into a command that asks for it. @param {Command} plain @returns {Command} */
export const withCaret = (plain) => (plain.at === -1 ? { ...plain, at: editor().selectionStart } : plain);

/** Gradio unlocks Continue a moment after the end. @param {() => void} what */
function whenUnlocked(what) {
  if (field("jet-continue").disabled) setTimeout(() => whenUnlocked(what), UNLOCK_POLL_MS);
  else what();
}

/** Starts a generation; while one is being stopped, after that. @param {Command} plain */
export function generate(plain) {
  const command = withCaret(plain);
  if (!state.generating) {
    wanted = command;
    press("jet-continue");
  } else if (stopOnTyping.isStopping()) {
    stopOnTyping.afterEnd(() => whenUnlocked(() => generate(command)));
  }
}

/** Presses a button that starts a generation; while the model writes, waits for its end if it is being stopped. @param {string} id @param {Command} plain */
export function generateByButton(id, plain) {
  if (state.generating) generate(plain);
  else press(id);
}

/**
 * Undo or Redo. While the model writes, Undo takes back what that has brought, and the generation itself if it has
 * brought nothing yet.
 * @param {"undo" | "redo"} what
 */
export function step(what) {
  if (!state.generating) {
    press(`jet-${what}`);
    return;
  }
  if (what !== "undo") return;
  stopOnTyping.requestStop();
  const takenOver = stopOnTyping.isTakenOver();
  stopOnTyping.afterEnd((wrote) => {
    if (wrote || takenOver) order({ type: "undo" });
  });
}
