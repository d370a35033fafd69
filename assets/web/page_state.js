// What several modules of the page know and change: how the story and its generation stand.

import { UndoSteps } from "./undo_steps.js";

export const state = {
  /** The model writes, from the click on until the reply has been taken in. */
  generating: false,
  /** A generation has ended just now; its last words may still be on their way to the box. */
  settling: false,
  /** The number of the command that started the generation; 0 until it is sent. */
  generation: 0,
  /** The server has this tab's story. */
  known: false,
  /** The text that the server has, where that is known. @type {string | null} */
  synced: null,
  /** What can be done just now. */
  steps: { undo: false, redo: false, retry: false },
  /** Asks for the story that this tab had, until it is there. @type {(() => void) | null} */
  restore: null,
  /** Fields that the server has as they stand here, and the browser has yet to keep. @type {Record<string, unknown>} */
  sentFields: {},
  /** Forms that the server has yet to hear. @type {Set<"set_guidance" | "set_title">} */
  unsent: new Set(),
};

/** What the server tells the page when it opens. */
export const settings = {
  /** Commands that the server takes while the model writes. @type {string[]} */
  whileGenerating: [],
  /** Units from which on only changes of the text are sent. */
  deltaMinimum: 40_000,
  /** Names of the sampling controls, in the order of the values that Gradio gives. @type {string[]} */
  controls: [],
  /** Those that a preset holds. @type {string[]} */
  presetControls: [],
};

export const undoSteps = new UndoSteps();
