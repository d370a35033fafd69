// Commands to the server, one after the other, and the text that goes with them.
//
// A command leaves by a click on a hidden button: Gradio then asks `commandToSend` for it, and gives the reply to
// `applyText` and `finishCommand`.

import { CommandQueue, isAutomatic, isReadOnly, opensStory, replacesText } from "./command_queue.js";
import * as connection from "./connection.js";
import { byId, field } from "./dom.js";
import { editor, putText, whenComposed } from "./editor.js";
import { parseObject } from "./event_stream.js";
import { updateText } from "./highlights.js";
import { settings, state, undoSteps } from "./page_state.js";
import * as storage from "./storage.js";
import { findEdit, overlayEdit } from "./text_edits.js";
import { say } from "./toast.js";
import { reveal } from "./viewport.js";

/** @import { Command, Entry } from "./command_queue.js" */
/** @import { Edit } from "./text_edits.js" */

export const TYPING_PAUSE_MS = 900;
const [LONG_TYPING_PAUSE_MS, KEEP_MS] = [6000, 1200];
const VERY_LONG = 300_000; // units; a longer text is sent less often

const STEPS = /** @type {const} */ (["undo", "redo", "retry"]);

const queue = new CommandQueue();
let lastNumber = 0; // of the command sent last
/** @type {{ text: string, at: number }} */
let ahead = { text: "", at: 0 }; // text and caret when a text-replacing command was given last
/** @type {(() => void)[]} */
const waiting = []; // for all commands
let syncTimer = 0;
let keepTimer = 0;
let stale = false; // the browser's copy is older than the story

const listeners = {
  /** A reply has come. @param {any} _reply @param {Command} [_done] */
  reply(_reply, _done) {},
  /** A command has ended, with or without a reply. */
  settled() {},
  /** The page gives its half-typed forms to the server again. */
  resend() {},
};
/** Names what to call when a reply has come, and so on. @param {Partial<typeof listeners>} asked */
export function watch(asked) {
  Object.assign(listeners, asked);
}

/** Adds what the server wants to know with every command. @param {Command} order */
function seal(order) {
  lastNumber += 1;
  const tab = /** @type {HTMLElement | null} */ (document.querySelector(".jet-tabs [aria-selected=true]"));
  const openTab = tab?.dataset.tab ?? "";
  return JSON.stringify({
    ...order,
    n: lastNumber,
    highlight: field("jet-highlight").value,
    tab: openTab,
    known: state.known,
    key: storage.stateKey(),
  });
}

/** Sends the next command, if one may go. */
export function send() {
  // What was given before the generation goes before it, and during it only what the server does then.
  const entry = queue.next(state.generating && state.generation ? settings.whileGenerating : null);
  if (!entry) return;
  cancelSync(); // the text goes with every command
  if (opensStory(entry.order)) storage.hold(true);
  byId("jet-send-command").click();
}

/**
 * Gives a command.
 * @param {Command} plain
 * @param {((reply: any) => void)} [after] called with its reply
 */
export function order(plain, after) {
  /** @type {Entry} */
  const entry = { order: plain, after };
  if (replacesText(plain)) {
    const [text, at] = [editor().value, editor().selectionEnd];
    // It is for the text as it is now. If another text is still to come, only what was typed over the last is known.
    if ((queue.current && replacesText(queue.current.order)) || queue.replacing.length) {
      entry.typed = { edit: findEdit(ahead.text, text, at), was: ahead.at };
    } else Object.assign(entry, { story: text, at, steps: undoSteps.take(text) });
    ahead = { text, at };
  }
  queue.push(entry);
  send();
}

/**
 * The fields by which the server gets the text: of a long one only what it does not have.
 * @param {string | null} story
 * @param {Entry["steps"]} [taken]
 */
function textFields(story, taken) {
  const { origin, steps } = taken ?? undoSteps.take(story);
  if (story === null || (state.known && story === state.synced)) return {};
  const { known, synced } = state;
  const typed = known && synced !== null && origin === synced && steps.length ? { typed: steps } : {};
  const isLong = known && (synced?.length ?? 0) > settings.deltaMinimum;
  return { ...typed, ...(isLong ? { edit: findEdit(/** @type {string} */ (synced), story) } : { story }) };
}

/** Waits until no command is under way. @returns {Promise<void>} */
function whenIdle() {
  return new Promise((resolve) => {
    if (queue.current) waiting.push(resolve);
    else resolve();
  });
}

/** Tells whether the server has answered every command, and writes nothing. */
export const isSettled = () => !(queue.current || queue.length || state.generating);
/** Tells whether the browser has the story as it stands, branches and all. */
export const isKept = () => !stale && isSettled();

// --- the text, without a command of the writer's -----------------------------------------------------------

/** Gives the server the text. Undo goes back to where the writer paused. */
export function sync() {
  cancelSync();
  if (!state.generating && !queue.has("sync")) order({ type: "sync" });
}
/** The same when the writer pauses. @param {number} [pause] milliseconds; longer for a very long text */
export function syncSoon(pause = editor().value.length > VERY_LONG ? LONG_TYPING_PAUSE_MS : TYPING_PAUSE_MS) {
  clearTimeout(syncTimer);
  syncTimer = setTimeout(sync, pause);
}
/** No longer waits for that. */
export function cancelSync() {
  clearTimeout(syncTimer);
  syncTimer = 0;
}

/** Gets the story from the server for the browser to keep, once nothing else is going on. */
export function keepSoon() {
  stale = true;
  clearTimeout(keepTimer);
  keepTimer = setTimeout(() => {
    if (!isSettled() || syncTimer || state.restore || connection.isLost()) {
      keepSoon();
      return;
    }
    stale = false;
    order({ type: "autosave" });
  }, KEEP_MS);
}

/** Gives the server the story again, as it stands here: nothing on the page changes by that. @param {() => void} [after] */
export function bringBack(after) {
  state.known = false;
  order({ type: "restore", copy: storage.load().copy, draft: editor().value, again: true }, after);
}

/** Does again what could not be done without a connection. */
export function resend() {
  listeners.resend();
  if (stale) keepSoon();
}

// --- replies -----------------------------------------------------------------------------------------------

/** Says what could not be done, where the writer asked for it; the rest is done again later. @param {Command} [done] */
function noteUnanswered(done) {
  if (done?.type === "set_guidance" || done?.type === "set_title") state.unsent.add(done.type);
  if (done && isAutomatic(done)) return;
  const what = done ? "That could not be done." : "The model could not go on.";
  if (!done) {
    const panel = /** @type {HTMLElement} */ (document.querySelector(".jet-panel"));
    panel.dataset.phase = "error";
    const status = /** @type {Text} */ (document.querySelector(".jet-status")?.lastChild);
    status.data = connection.isLost() ? "Connection lost" : "That did not work";
  }
  say(`${what} ${connection.reason()} Your text is here; you can go on writing.`, { bad: true });
}

/**
 * Takes a reply in.
 * @param {string} text
 * @param {number} expected number of the command
 * @param {Command} [done] the command; none for a generation
 * @returns {Record<string, any>} the reply; empty if there was none, or the server had no such story
 */
export function receive(text, expected, done) {
  const reply = parseObject(text);
  if (reply.n !== expected) {
    noteUnanswered(done);
    return {};
  }
  if (reply.lost) {
    if (!done || !isAutomatic(done)) {
      say("The server had forgotten this story; it has it back now. Please do that again.");
    }
    bringBack(resend);
    return {};
  }
  state.known = true;
  for (const step of STEPS) state.steps[step] = reply[step] ?? state.steps[step];
  listeners.reply(reply, done);
  return reply;
}

/** The command under way, as Gradio sends it. */
export function commandToSend() {
  const current = /** @type {Entry} */ (queue.current);
  // While the model writes, the box is behind what the server has.
  current.story = state.generating && state.generation ? null : (current.story ?? editor().value);
  return seal({ ...current.order, ...textFields(current.story, current.steps) });
}

/** A generation as Gradio sends it, once no command is under way. @param {() => Command} make */
export async function generationToSend(make) {
  await whenIdle();
  const given = seal({ ...make(), ...textFields(editor().value) });
  state.generation = lastNumber;
  return given;
}

/**
 * Puts what was typed since a command onto the text that it brought, and before the commands given after it.
 * @param {Entry} done
 * @param {string} story the text it brought
 * @param {number | null} cursor
 * @param {boolean} opened another story
 * @returns {string} the text that is in the box now
 */
function bring(done, story, cursor, opened) {
  const sent = done.story ?? editor().value; // none is sent while the model writes
  const change = findEdit(sent, story);
  let on = { text: story, at: cursor ?? undoSteps.placeOf(sent, story, change) + change.text.length };
  /** @param {Edit} edit @param {number} was */
  const lay = (edit, was) => {
    if (edit.from !== edit.to || edit.text) on = overlayEdit(on.text, on.at, edit, was, change);
  };
  const pending = queue.replacing;
  for (const entry of pending) {
    if (entry.typed) lay(entry.typed.edit, entry.typed.was);
    if (entry === pending[0]) Object.assign(entry, { story: on.text, at: on.at });
  }
  const now = editor().value;
  const was = pending.length ? ahead : { text: sent, at: done.at ?? editor().selectionEnd };
  const before = on;
  if (now !== was.text) lay(findEdit(was.text, now, editor().selectionEnd), was.at);
  if (pending.length) ahead = before;
  putText(on.text, story === sent ? null : on.at);
  updateText(on.text, false);
  undoSteps.restart(story);
  if (on.text !== story && !syncTimer) syncSoon(TYPING_PAUSE_MS);
  if (!opened) reveal();
  return on.text;
}

/** Puts a reply's text into the box. Returns what Gradio is to hold, if that changes. @param {string} text */
export async function applyText(text) {
  const { n, story, cursor, opened } = parseObject(text);
  if (n !== lastNumber || story === undefined) return [{ __type__: "update" }];
  await whenComposed();
  try {
    return [bring(/** @type {Entry} */ (queue.current), story, cursor ?? null, opened)];
  } catch (error) {
    // The commands behind it still have to come through.
    console.error(error);
    putText(story);
    return [story];
  }
}

/** Ends the command under way. Returns what the panel and the controls are to become. @param {string} text the reply */
export function finishCommand(text) {
  const done = /** @type {Entry} */ (queue.finish());
  const plain = parseObject(text);
  if (plain.n !== lastNumber) state.synced = null;
  else state.synced = plain.same ? /** @type {string} */ (done.story) : (plain.story ?? null);
  const reply = receive(text, lastNumber, done.order);
  if (reply.n !== undefined) done.after?.(reply);
  if (opensStory(done.order)) storage.hold(false);
  if (!isReadOnly(done.order)) {
    storage.saveSoon();
    keepSoon();
  }
  listeners.settled();
  if (!queue.length) for (const resolve of waiting.splice(0)) resolve();
  send();
  const controls = reply.controls ?? {};
  /** @param {object} changes */
  const update = (changes) => ({ __type__: "update", ...changes });
  return [
    update(reply.panel && !state.generating ? { value: reply.panel } : {}),
    ...settings.controls.map((name) => update(name in controls ? { value: controls[name] } : {})),
  ];
}
