// The commands that wait for the server, and which of them goes next. One is under way at a time. No DOM.

/**
 * A command as the server reads it; `type` says what it does.
 * @typedef {{ type: string, [field: string]: any }} Command
 */

/**
 * A command in the queue.
 *
 * `story`, `at` and `steps` are the text, the caret and the undo steps at the time of the command, where they
 * matter; `typed` is what was typed since the text-replacing command before it.
 * @typedef {{
 *   order: Command,
 *   after?: (reply: any) => void,
 *   story?: string | null,
 *   at?: number,
 *   steps?: { origin: string | null, steps: import("./text_edits.js").Edit[] },
 *   typed?: { edit: import("./text_edits.js").Edit, was: number },
 * }} Entry
 */

const READ_ONLY = new Set([
  "sync",
  "autosave",
  "export",
  "export_all",
  "export_status",
  "inspect",
  "unpack",
  "export_history",
  "alternatives",
  "compare",
  "apply_preset",
  "apply_own_preset",
  "reuse_settings",
  "resume",
  "restore",
  "forget_story",
  "models",
  "use_model",
  "cancel_model",
  "add_model_folder",
  "remove_model_copy",
]);
const REPLACES_TEXT = new Set([
  "undo",
  "redo",
  "set_opening",
  "take_offer",
  "fork",
  "select_branch",
  "delete_branch",
  "new_story",
  "import_file",
  "restore",
]);
const OPENS_STORY = new Set(["new_story", "import_file", "restore"]);
const AUTOMATIC = new Set([
  "sync",
  "autosave",
  "resume",
  "restore",
  "forget_story",
  "set_guidance",
  "set_title",
  "models",
]);

/** Tells whether a command leaves the story as it is. @param {Command} order */
export const isReadOnly = (order) => READ_ONLY.has(order.type);
/** Tells whether a command's reply brings a text. @param {Command} order */
export const replacesText = (order) => REPLACES_TEXT.has(order.type);
/** Tells whether a command brings another story. @param {Command} order */
export const opensStory = (order) => OPENS_STORY.has(order.type);
/** Tells whether the page gives a command by itself, so that no reader waits for it. @param {Command} order */
export const isAutomatic = (order) => AUTOMATIC.has(order.type);

export class CommandQueue {
  /** @type {Entry[]} */
  #waiting = [];
  /** @type {Entry | null} the command under way */
  current = null;

  /** @param {Entry} entry */
  push(entry) {
    this.#waiting.push(entry);
  }

  get length() {
    return this.#waiting.length;
  }

  /** Whether a command with this `type` waits. @param {string} name */
  has(name) {
    return this.#waiting.some(({ order }) => order.type === name);
  }

  /** The waiting commands that bring a text, oldest first. */
  get replacing() {
    return this.#waiting.filter(({ order }) => replacesText(order));
  }

  /**
   * Makes the next command the current one, and returns it; null while one is under way or none may go.
   *
   * Commands go in order, with one exception: a command that brings a text overtakes read-only ones, which would
   * otherwise take along what was typed after it.
   * @param {readonly string[] | null} [allowed] while the model writes, the commands that the server takes then,
   *   first things first; null for all
   */
  next(allowed = null) {
    if (this.current) return null;
    const index = allowed ? this.#firstAllowed(allowed) : this.#first();
    if (index < 0 || index >= this.#waiting.length) return null;
    [this.current] = this.#waiting.splice(index, 1);
    return this.current;
  }

  /** Ends the current command, and returns it. */
  finish() {
    const done = this.current;
    this.current = null;
    return done;
  }

  /** @param {readonly string[]} allowed */
  #firstAllowed(allowed) {
    const places = allowed.map((name) => this.#waiting.findIndex(({ order }) => order.type === name));
    return places.find((place) => place >= 0) ?? -1;
  }

  #first() {
    const first = Math.max(
      0,
      this.#waiting.findIndex(({ order }) => replacesText(order)),
    );
    return this.#waiting.slice(0, first).every(({ order }) => isReadOnly(order)) ? first : 0;
  }
}
