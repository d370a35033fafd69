// The story on the clipboard as rich text: other programs get headings and italics.

import { field, targetOf } from "./dom.js";
import { toHtml } from "./manuscript.js";
import { fullText } from "./stream_overlay.js";
import { say } from "./toast.js";

/** Copies over plain http, too, where browsers have no clipboard for pages. @param {string} html @param {string} text */
function copyByEvent(html, text) {
  let done = false;
  const fill = (/** @type {ClipboardEvent} */ event) => {
    event.preventDefault();
    event.stopImmediatePropagation();
    event.clipboardData?.setData("text/html", html);
    event.clipboardData?.setData("text/plain", text);
    done = Boolean(event.clipboardData);
  };
  document.addEventListener("copy", fill, { capture: true, once: true });
  document.execCommand("copy");
  document.removeEventListener("copy", fill, { capture: true });
  return done;
}

/** Copies the story. */
export async function copyRich() {
  const text = fullText() ?? "";
  const html = toHtml(text, { title: field("jet-title").value });
  const type = (/** @type {string} */ kind, /** @type {string} */ given) => new Blob([given], { type: kind });
  try {
    if (!copyByEvent(html, text)) {
      const item = new ClipboardItem({
        "text/html": type("text/html", html),
        "text/plain": type("text/plain", text),
      });
      await navigator.clipboard.write([item]);
    }
    say("Copied as rich text.");
  } catch {
    say("This browser did not let the page copy: select the text and copy it yourself.", { bad: true });
  }
}

/** Starts watching for the buttons that copy and print. */
export function install() {
  document.addEventListener("click", (event) => {
    const { id } = targetOf(event);
    if (id === "jet-copy-rich") copyRich();
    else if (id === "jet-print-story") print();
  });
}
