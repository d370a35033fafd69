// Stories as files: opened by picking or dropping some, saved as downloads. What a file brings and what cannot be
// kept of it is shown before it is opened, unless all of it can.

import { order } from "./commands.js";
import { byId, make, targetOf } from "./dom.js";
import { showReview } from "./file_review.js";
import { replaceStory } from "./replace_story.js";
import * as storage from "./storage.js";
import { say } from "./toast.js";

/** @import { Found, Picked } from "./file_review.js" */

const MOST_BYTES = 20_000_000;
const MOST_FILES = 50;
const REVOKE_MS = 10_000;

/** @param {File} file @returns {Promise<Picked>} */
function read(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => {
      const url = /** @type {string} */ (reader.result);
      resolve({ name: file.name, data: url.split(",", 2)[1] ?? "" });
    };
    reader.onerror = () => reject(new Error("This file could not be read."));
    reader.readAsDataURL(file);
  });
}

/** What is in a file. @param {Picked} file @returns {Promise<Found[]>} */
function inspect(file) {
  return new Promise((resolve) => {
    order({ type: "inspect", ...file }, ({ inspected, error }) => {
      resolve(inspected ?? [{ name: file.name, refused: error ?? "This file could not be read." }]);
    });
  });
}

/** Opens files. @param {Iterable<File>} files */
export async function openFiles(files) {
  const given = [...files];
  if (given.length > MOST_FILES) {
    say(`At most ${MOST_FILES} files at a time, please.`, { bad: true });
    return;
  }
  const found = [];
  for (const file of given) {
    if (file.size > MOST_BYTES) {
      found.push({
        file: { name: file.name, data: "" },
        brings: [{ name: file.name, refused: "It is larger than 20 MB." }],
      });
      continue;
    }
    try {
      const picked = await read(file);
      found.push({ file: picked, brings: await inspect(picked) });
    } catch {
      found.push({
        file: { name: file.name, data: "" },
        brings: [{ name: file.name, refused: "It could not be read." }],
      });
    }
  }
  const [only, more] = found;
  const [first, second] = only?.brings ?? [];
  if (more || second) showReview(found, inspect);
  else if (first?.refused) say(first.refused, { bad: true });
  else if (first?.asks || first?.onlyGuidance) showReview(found, inspect);
  else if (first) replaceStory({ type: "import_file", ...only.file });
}

/** @param {string} data base64 */
const bytesOf = (data) => Uint8Array.from(atob(data), (character) => character.charCodeAt(0));

/**
 * Gives the writer a file.
 * @param {{ name: string, type: string, text?: string, data?: string }} file `data` is base64
 */
export function download({ name, text, data, type }) {
  const blob =
    data === undefined
      ? new Blob([text ?? ""], { type: `${type};charset=utf-8` })
      : new Blob([bytesOf(data)], { type });
  const href = URL.createObjectURL(blob);
  make("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), REVOKE_MS);
}

/**
 * Shows how far a file is that is being written, and asks again.
 * @param {{ name: string, done: number } | undefined} job none once there is one, or it could not be written
 */
export function showExport(job) {
  const line = byId("jet-exporting");
  line.hidden = !job;
  if (!job) return;
  const bar = make("progress", { max: 1, value: job.done });
  line.replaceChildren(`Making the ${job.name}… `, bar);
  order({ type: "export_status" });
}

function saveAll() {
  storage.save();
  const stories = storage.stories().map(([id, { title }]) => ({ title: title ?? "", ...storage.load(id) }));
  if (stories.length) order({ type: "export_all", stories });
  else say("There is no story to save yet.", { bad: true });
}

/** @param {DragEvent} event */
const bringsFiles = (event) =>
  Boolean(event.dataTransfer?.types.includes("Files")) && targetOf(event).type !== "file";

/** Starts watching for files. One dropped on the page is opened, not shown by the browser in the page's place. */
export function install() {
  document.addEventListener(
    "dragover",
    (event) => {
      if (!bringsFiles(event) || !event.dataTransfer) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = "copy";
    },
    true,
  );
  document.addEventListener(
    "drop",
    (event) => {
      if (!bringsFiles(event) || !event.dataTransfer) return;
      event.preventDefault();
      event.stopPropagation();
      openFiles(event.dataTransfer.files);
    },
    true,
  );
  document.addEventListener("change", (event) => {
    const target = targetOf(event);
    if (target.id === "jet-author") order({ type: "set_author", text: target.value }, () => {});
    if (target.id !== "jet-import" || !target.files?.length) return;
    const files = [...target.files];
    target.value = ""; // the same one may be opened again
    openFiles(files);
  });
  document.addEventListener("click", (event) => {
    if (targetOf(event).id === "jet-save-all") saveAll();
  });
}
