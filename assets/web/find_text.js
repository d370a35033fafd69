// Finds and replaces in a text: words, whole words, patterns. No DOM.

const SPECIAL = /[.*+?^${}()|[\]\\]/g;
const LETTER = "[\\p{L}\\p{N}\\p{M}_]";

/** @typedef {{ regex: boolean, whole: boolean, exact: boolean }} FindOptions `exact` tells capitals from small letters */

/**
 * Returns the pattern of what is looked for.
 * @param {string} query
 * @param {FindOptions} options
 * @returns {RegExp} throws a SyntaxError, with a message for the writer, for a pattern that is none
 */
export function patternOf(query, { regex, whole, exact }) {
  const inner = regex ? query : query.replace(SPECIAL, "\\$&");
  const source = whole ? `(?<!${LETTER})(?:${inner})(?!${LETTER})` : inner;
  try {
    return new RegExp(source, exact ? "gmu" : "gimu");
  } catch (error) {
    const reason = /** @type {Error} */ (error).message.replace(/^.*: /, "");
    throw new SyntaxError(`This pattern cannot be read: ${reason}.`);
  }
}

/**
 * Finds the places of a pattern that have a letter in them. It uses nothing of this module, so that a worker can run it.
 * @param {string} text
 * @param {RegExp} pattern
 * @param {number} [most]
 * @returns {[number, number][]}
 */
export function findAll(text, pattern, most = 100_000) {
  /** @type {[number, number][]} */
  const found = [];
  for (const match of text.matchAll(pattern)) {
    if (match[0]) found.push([match.index, match.index + match[0].length]);
    if (found.length >= most) break;
  }
  return found;
}

/**
 * What one place becomes: the replacement as it stands, or of a pattern with its `$1`, `$&`, `$<name>` and `\\n`. The
 * place is looked at where it stands, so that what is around it counts.
 * @param {string} text
 * @param {RegExp} pattern
 * @param {[number, number]} place
 * @param {string} replacement
 * @param {boolean} regex
 */
export function replacedAt(text, pattern, [start, end], replacement, regex) {
  if (!regex) return replacement;
  const sticky = new RegExp(pattern.source, `${pattern.flags.replace("g", "")}y`);
  sticky.lastIndex = start;
  const match = sticky.exec(text);
  if (!match) return text.slice(start, end);
  return replacement.replace(/\\n|\\t|\\\\|\$(?:\$|&|\d{1,2}|<[^>]+>)/g, (sign) => {
    const key = sign.slice(1);
    if (sign.startsWith("\\"))
      return /** @type {Record<string, string>} */ ({ n: "\n", t: "\t" })[key] ?? key;
    if (key === "$") return "$";
    if (key === "&") return match[0];
    const name = key.startsWith("<") ? key.slice(1, -1) : "";
    if (name) return match.groups && name in match.groups ? (match.groups[name] ?? "") : sign;
    return Number(key) < match.length ? (match[Number(key)] ?? "") : sign;
  });
}

/**
 * Replaces all places of a pattern.
 * @param {string} text
 * @param {RegExp} pattern
 * @param {string} replacement
 * @param {boolean} regex whether `$1` and so on stand for groups
 * @param {[number, number][]} [places] where they are known
 * @returns {{ text: string, count: number }}
 */
export function replaceAll(text, pattern, replacement, regex, places = findAll(text, pattern)) {
  const parts = [];
  let at = 0;
  for (const place of places) {
    parts.push(text.slice(at, place[0]));
    parts.push(replacedAt(text, pattern, place, replacement, regex));
    at = place[1];
  }
  parts.push(text.slice(at));
  return { text: parts.join(""), count: places.length };
}
