// A story as a book shows it: headings, scene breaks and italics of its plain text. No DOM.
//
// jet/files/markup.py is the definition; a test holds this to it. For the printer and the clipboard only, which
// cannot wait for the server.

/** @typedef {{ text: string, mark: string }} Run characters of one look, and the mark that stands around them */
/** @typedef {{ kind: "paragraph" | "heading" | "scene", level: number, lines: Run[][] }} Block */

const NUMBER = "(?:\\d{1,4}|[IVXLC]{1,8}|One|Two|Three|Four|Five|Six|Seven|Eight|Nine|Ten|Eleven|Twelve)";
const CHAPTER = new RegExp(
  `^(?:(?:Chapter|Part|Book|Kapitel|Chapitre|Capítulo) ${NUMBER}(?:[:.—–-]? .{1,80})?` +
    "|Prologue|Epilogue|Prolog|Epilog)[.:]?$",
  "iu",
);
const SCENE = /^(?:(?:[*＊] ?){3,}|-{3,}|~{3,}|#|⁂|(?:• ?){3,}|(?:— ?){3,})$/u;
const HEADING = /^(#{1,6}) (?=\S)(.*)$/su;
const EMPHASIS =
  /(?<![\p{L}\p{N}_*])(?<mark>\*{1,3})(?=[^\s*])(?<starred>[^*\n]*[^\s*\n])\k<mark>(?![\p{L}\p{N}_*])|(?<![\p{L}\p{N}_])_(?=[^\s_])(?<lined>[^_\n]*[^\s_\n])_(?![\p{L}\p{N}_])/gu;
const ESCAPES = /** @type {Record<string, string>} */ ({
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
});

/** @param {string} text */
const escapeHtml = (text) => text.replace(/[&<>"]/g, (sign) => ESCAPES[sign]);
/** @param {string} line */
const isScene = (line) => [...line].length <= 80 && SCENE.test(line.trim());
/** @param {string} line */
const isChapter = (line) => [...line].length <= 100 && CHAPTER.test(line);

/** Cuts a line into runs, without the marks. @param {string} line @returns {Run[]} */
function runsOf(line) {
  const found = [];
  let at = 0;
  for (const match of line.matchAll(EMPHASIS)) {
    if (match.index > at) found.push({ text: line.slice(at, match.index), mark: "" });
    const { mark, starred, lined } = /** @type {Record<string, string>} */ (match.groups);
    found.push({ text: starred ?? lined, mark: mark ?? "_" });
    at = match.index + match[0].length;
  }
  if (at < line.length) found.push({ text: line.slice(at), mark: "" });
  return found;
}

/** @param {string} line @returns {Block | null} */
function specialOf(line) {
  if (isScene(line)) return { kind: "scene", level: 0, lines: [[{ text: line, mark: "" }]] };
  const heading = HEADING.exec(line);
  if (heading)
    return { kind: "heading", level: heading[1].length, lines: [[{ text: heading[2], mark: "" }]] };
  return isChapter(line) ? { kind: "heading", level: 0, lines: [[{ text: line, mark: "" }]] } : null;
}

/** The title and level of a line that is a heading; null if it is none. @param {string} line @returns {{ title: string, level: number } | null} */
export function headingOf(line) {
  const special = line ? specialOf(line) : null;
  if (special?.kind !== "heading") return null;
  return { title: special.lines[0][0].text.trim(), level: special.level };
}

/** Cuts a text into blocks. @param {string} text @returns {Block[]} */
export function blocksOf(text) {
  /** @type {Block[]} */
  const blocks = [];
  let open = false; // the last block is a paragraph that the next line goes on with
  for (const line of text.split("\n")) {
    const special = line ? specialOf(line) : null;
    if (special) blocks.push(special);
    else if (line && open) blocks[blocks.length - 1].lines.push(runsOf(line));
    else if (line) blocks.push({ kind: "paragraph", level: 0, lines: [runsOf(line)] });
    open = Boolean(line) && !special;
  }
  return blocks;
}

/** @param {Run} run */
function runHtml({ text, mark }) {
  const inner =
    mark === "*" || mark === "_" || mark === "***" ? `<em>${escapeHtml(text)}</em>` : escapeHtml(text);
  return mark.startsWith("**") ? `<strong>${inner}</strong>` : inner;
}

/** @param {Block} block */
function blockHtml({ kind, level, lines }) {
  const inner = lines.map((runs) => runs.map(runHtml).join("")).join("<br>");
  if (kind === "heading") return `<h${level || 1} dir="auto">${inner}</h${level || 1}>`;
  return kind === "scene" ? `<p dir="auto" class="scene">${inner}</p>` : `<p dir="auto">${inner}</p>`;
}

/**
 * Returns a story as HTML for a printer or another program.
 * @param {string} text
 * @param {{ title?: string, author?: string }} [names]
 */
export function toHtml(text, { title = "", author = "" } = {}) {
  const by = author ? `<p dir="auto">${escapeHtml(author)}</p>` : "";
  const head = title ? `<header><h1 dir="auto">${escapeHtml(title)}</h1>${by}</header>` : "";
  return head + blocksOf(text).map(blockHtml).join("\n");
}
