// Stories as files: opened by picking or dropping one, saved as a download.

import { make, targetOf } from "./dom.js";
import { replaceStory } from "./replace_story.js";
import { say } from "./toast.js";

const MOST_BYTES = 20_000_000;
const REVOKE_MS = 10_000;

/** @param {File} file */
function openFile(file) {
  if (file.size > MOST_BYTES) {
    say("This file is larger than 20 MB.", { bad: true });
    return;
  }
  const reader = new FileReader();
  reader.onload = () => {
    const url = /** @type {string} */ (reader.result);
    replaceStory({ type: "import_file", name: file.name, data: url.split(",", 2)[1] ?? "" });
  };
  reader.onerror = () => say("This file could not be read.", { bad: true });
  reader.readAsDataURL(file);
}

/** Gives the writer a file. @param {{ name: string, text: string, type: string }} file */
export function download({ name, text, type }) {
  const href = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  make("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), REVOKE_MS);
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
      const [file, more] = event.dataTransfer.files;
      if (more) say("One file at a time, please.", { bad: true });
      else if (file) openFile(file);
    },
    true,
  );
  document.addEventListener("change", (event) => {
    const target = targetOf(event);
    const file = target.id === "jet-import" && target.files?.[0];
    if (!file) return;
    target.value = ""; // the same one may be opened again
    openFile(file);
  });
}
