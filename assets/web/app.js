// The page's half in the browser: puts the modules together, and is what Gradio's events call.

import * as actions from "./actions.js";
import * as alternatives from "./alternatives_popover.js";
import * as autoscroll from "./autoscroll.js";
import * as beginnings from "./beginnings.js";
import {
  applyText,
  bringBack,
  commandToSend,
  finishCommand,
  isKept,
  isSettled,
  keepSoon,
  order,
  resend,
  sync,
  syncSoon,
  watch as watchCommands,
} from "./commands.js";
import * as connection from "./connection.js";
import { refreshButtons } from "./controls.js";
import { byId, targetOf } from "./dom.js";
import { openDrawer } from "./drawers.js";
import {
  editor,
  focusIfLost,
  install as installEditor,
  isComposing,
  isOwnChange,
  putText,
} from "./editor.js";
import * as findBar from "./find_bar.js";
import * as forms from "./forms.js";
import {
  endGeneration,
  generationCommand,
  install as installGeneration,
  startGeneration,
  stopCommand,
} from "./generation.js";
import { marksNewWords, shownText, updateText } from "./highlights.js";
import * as lengthChoice from "./length_choice.js";
import { mayBringLineBreaks, normalizeLineBreaks } from "./line_breaks.js";
import * as models from "./models.js";
import * as neverWrite from "./never_write.js";
import * as notices from "./notices.js";
import * as offers from "./offered_words.js";
import * as outlineView from "./outline_view.js";
import * as pageMarks from "./page_marks.js";
import { settings, state, undoSteps } from "./page_state.js";
import * as preferences from "./preferences.js";
import * as printView from "./print_view.js";
import * as readAloud from "./read_aloud.js";
import * as redraw from "./redraw.js";
import * as replaceStory from "./replace_story.js";
import { showReply } from "./reply_view.js";
import * as richCopy from "./rich_copy.js";
import { keepPreset, showPresets } from "./saved_presets.js";
import * as sessionRestore from "./session_restore.js";
import * as stopOnTyping from "./stop_on_typing.js";
import * as storage from "./storage.js";
import * as storyFiles from "./story_files.js";
import * as storyWords from "./story_words.js";
import * as tabLock from "./tab_lock.js";
import * as tastes from "./tastes.js";
import { say } from "./toast.js";
import * as variants from "./variants.js";
import * as viewSettings from "./view_settings.js";
import { reveal } from "./viewport.js";

const MODULES = [
  connection,
  tabLock,
  redraw,
  { install: installEditor },
  storage,
  preferences,
  pageMarks,
  neverWrite,
  sessionRestore,
  stopOnTyping,
  alternatives,
  offers,
  printView,
  autoscroll,
  variants,
  { install: installGeneration },
  replaceStory,
  storyFiles,
  richCopy,
  lengthChoice,
  tastes,
  storyWords,
  beginnings,
  viewSettings,
  findBar,
  outlineView,
  readAloud,
  actions,
  forms,
  models,
];

const showOwnPresets = () =>
  showPresets((chosen) => {
    if (!state.generating) order({ type: "apply_own_preset", settings: chosen });
  });

/** @param {string} why */
function onConnectionLost(why) {
  if (why.includes("log in")) {
    const logIn = () => window.open(location.href, "_blank", "noopener");
    notices.show("connection", `${why} Your text is here.`, { action: ["Log in", logIn] });
  } else notices.show("connection", "Connection lost. Your text is here; you can go on writing.");
}

/** @param {boolean} wasLost */
function onConnectionBack(wasLost) {
  notices.clear("connection");
  if (wasLost) {
    say("Connected again.");
    byId("jet-refresh").click(); // it may be another server, with another model
  }
  if (state.restore) state.restore();
  else if (state.known) order({ type: "resume" }, resend);
  else bringBack(resend);
}

/** @param {InputEvent} event */
function onInput(event) {
  const target = targetOf(event);
  if (target !== /** @type {Element} */ (editor())) return;
  if (isOwnChange()) {
    updateText(target.value, marksNewWords());
    return;
  }
  stopOnTyping.noteTyping();
  alternatives.close();
  if (mayBringLineBreaks(event.inputType, event.data)) {
    const text = normalizeLineBreaks(target.value);
    if (text !== target.value) putText(text, editor().selectionEnd);
  }
  const before = shownText();
  const [now, cursor] = [editor().value, editor().selectionEnd];
  if (!state.generating) viewSettings.noteText(now);
  updateText(now, false, cursor);
  undoSteps.note(event.inputType, before, now, cursor, isComposing());
  state.steps = { ...state.steps, undo: true, redo: false };
  refreshButtons();
  storyWords.showSoon();
  outlineView.showSoon();
  keepSoon();
  syncSoon();
}

/** Puts the story that this tab had into the box, at once; the server gives its branches back later. */
function openPage() {
  const { draft, copy } = storage.load();
  const early = editor().value; // typed before the page was ready
  const text = (draft ?? "") + early;
  viewSettings.noteText(text);
  putText(text, early ? text.length : null);
  if (early) reveal(undefined, { page: false });
  storage.claimStory();
  beginnings.showBeginnings();
  sessionRestore.begin(early ? "" : text, openDrawer);
  const finish = () => {
    state.restore = null;
    const names = sessionRestore.finish();
    if (names.includes("jet-title")) forms.sendTitle();
    if (names.some((name) => name !== "jet-title")) forms.sendGuidance();
  };
  if (draft === null && copy === null) finish();
  else {
    state.restore = () => {
      const now = draft === null ? null : editor().value || draft;
      order({ type: "restore", copy, draft: now }, finish);
    };
    state.restore();
  }
  return text;
}

/** Follows a change of the text by any author. @param {string} story */
function textChanged(story) {
  const byModel = state.generating || state.settling;
  if (!byModel) viewSettings.noteText(story); // no line moves while the model writes
  updateText(story, byModel && marksNewWords());
  storage.saveSoon();
  storyWords.showSoon();
  outlineView.showSoon();
  if (byModel && autoscroll.isFollowing() && !stopOnTyping.isTakenOver()) autoscroll.showEnd();
  return [];
}

/** Shows what the controls stand at, in a writer's words. @param {Record<string, unknown>} controls */
function showSampling(controls) {
  lengthChoice.showPreset(controls);
  tastes.showTastes(controls);
}

/** What the controls are to become: as this browser had them last. */
function restoreControls() {
  showSampling({
    ...lengthChoice.defaultPreset(),
    ...Object.fromEntries(
      settings.presetControls.flatMap((name) => {
        const kept = preferences.controlValue(name);
        return kept === undefined ? [] : [[name, kept]];
      }),
    ),
  });
  return settings.controls.map((name) => {
    const value = name === "seed" ? sessionRestore.keptSeed() : preferences.controlValue(name);
    return { __type__: "update", ...(value === undefined ? {} : { value }) };
  });
}

/** @param {string[]} names @param {unknown[]} values */
const byName = (names, values) => Object.fromEntries(names.map((name, index) => [name, values[index]]));

/** Keeps the controls for this browser's next visit. @param {unknown[]} values */
function keepControls(...values) {
  const { seed: _, ...kept } = byName(settings.controls, values);
  lengthChoice.showLength(Number(kept.max_new_tokens));
  showSampling(kept);
  preferences.keepControls(kept);
  return [];
}

/** Keeps the settings as a preset, under the name that was typed. @param {unknown[]} values */
function keepSettings(...values) {
  const problem = keepPreset(actions.chosenPresetName(), byName(settings.presetControls, values));
  if (problem) say(problem, { bad: true });
  showOwnPresets();
  return [];
}

/**
 * Starts the page's half in the browser, once its elements are there.
 * @param {typeof settings} given
 */
export function start(given) {
  Object.assign(settings, given);
  connection.watch({ lost: onConnectionLost, back: onConnectionBack });
  const settled = () => {
    refreshButtons();
    focusIfLost();
    offers.consider();
  };
  watchCommands({ reply: showReply, resend: forms.resendForms, settled });
  for (const { install } of MODULES) install();
  document.addEventListener("input", (event) => onInput(/** @type {InputEvent} */ (event)));
  document.addEventListener("change", (event) => {
    if (targetOf(event).id === "jet-highlight") sync();
  });
  showOwnPresets();
  // Gradio puts the label of a field that has buttons beside it and not around it.
  document.querySelector("#jet-seed input")?.setAttribute("aria-label", "Seed");
  focusIfLost();
  const page = {
    waitForStart: () => [],
    openPage,
    restoreControls,
    keepControls,
    keepSettings,
    textChanged,
    startGeneration,
    generationCommand,
    stopCommand,
    offerCommand: offers.offerCommand,
    showOffer: offers.showOffer,
    endGeneration,
    commandToSend,
    applyText,
    finishCommand,
    isSettled,
    isKept,
  };
  return Object.assign(globalThis, { jetStories: page }).jetStories;
}
