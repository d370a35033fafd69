// The list of stories that this browser keeps: by id, what the list shows of them. No DOM.

/**
 * `from` is the story that a copy was made of, `copy` its number.
 * @typedef {{ title?: string, preview?: string, saved?: number, from?: string, copy?: number }} StoryInfo
 */
/** @typedef {Record<string, StoryInfo>} StoryIndex */

const PREVIEW_LENGTH = 80;

/** Makes an id that no other tab has. */
export function newStoryId() {
  return `${Date.now().toString(36)}${Math.random().toString(36).slice(2, 6)}`;
}

/**
 * Returns an index in which a story is as it is now.
 * @param {StoryIndex} index
 * @param {string} id
 * @param {{ title: string, text: string, saved: number, copyOf: string | null }} now `copyOf` numbers a story that is
 *   new to the index as the next copy of another
 */
export function withStory(index, id, { title, text, saved, copyOf }) {
  const numbers = Object.values(index)
    .filter(({ from }) => from && from === copyOf)
    .map(({ copy }) => copy ?? 1);
  const before = index[id] ?? (copyOf ? { from: copyOf, copy: 1 + Math.max(0, ...numbers) } : {});
  return { ...index, [id]: { ...before, title, preview: text.slice(0, PREVIEW_LENGTH), saved } };
}

/** The stories, latest first. @param {StoryIndex} index @returns {[string, StoryInfo][]} */
export function latestFirst(index) {
  return Object.entries(index).sort(([, a], [, b]) => (b.saved ?? 0) - (a.saved ?? 0));
}

/** The stories that are not on the sheet, latest first. @param {[string, StoryInfo][]} stories @param {string} here */
export const latestOthers = (stories, here) =>
  stories.filter(([id, info]) => id !== here && (info.title || info.preview));

const [DAY_MS, SHOWN_NAME] = [86_400_000, 40];

/**
 * Describes a story to one who comes back to it: its name, shortened, and when it was written on last.
 * @param {StoryInfo} info
 * @param {number} now in milliseconds, as `saved`
 */
export function describeAge(info, now) {
  const whole = nameOf(info).replace(/\s+/g, " ").trim();
  const cut = whole.slice(0, SHOWN_NAME).replace(/\s+\S*$/, "");
  const name = whole.length <= SHOWN_NAME ? whole : `${cut || whole.slice(0, SHOWN_NAME)}…`;
  /** @param {number} at */
  const midnight = (at) => new Date(at).setHours(0, 0, 0, 0);
  const days = Math.round((midnight(now) - midnight(info.saved ?? now)) / DAY_MS);
  const age = days <= 0 ? "today" : days === 1 ? "yesterday" : `${days} days ago`;
  return { name, age };
}

/** The name of a story in the list. @param {StoryInfo} info */
export function nameOf({ title, preview, copy }) {
  const copied = copy ? ` (copy${copy > 1 ? ` ${copy}` : ""})` : "";
  return `${title || preview || "Untitled story"}${copied}`;
}
