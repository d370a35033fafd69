// What a printer gets: the story as a book shows it, and nothing else.

import { field, make } from "./dom.js";
import { toHtml } from "./manuscript.js";
import { fullText } from "./stream_overlay.js";

// Gradio moves the page's style sheet below its own elements, and this one has none of them.
const STYLE = `
  body > :not(#jet-print) { display: none !important; }
  html, body { margin: 0; background: white !important; }
  #jet-print {
    color: black; overflow-wrap: break-word; text-align: start; orphans: 2; widows: 2; hyphens: auto;
    font: 12pt/1.6 Charter, "Bitstream Charter", "Iowan Old Style", Palatino, Georgia, "DejaVu Serif", serif;
  }
  #jet-print header { break-after: page; padding-top: 6cm; text-align: center; }
  #jet-print header p { font-style: italic; text-indent: 0; }
  #jet-print :is(h1, h2, h3, h4, h5, h6) { font-weight: normal; break-after: avoid; margin: 2em 0 1em; text-align: center; }
  #jet-print h1 { font-size: 1.6em; }
  #jet-print h2 { font-size: 1.3em; }
  #jet-print p ~ :is(h1, h2) { break-before: page; }
  #jet-print p { margin: 0; text-indent: 1.4em; white-space: pre-wrap; unicode-bidi: plaintext; }
  #jet-print :is(h1, h2, h3, h4, h5, h6, .scene, header) + p { text-indent: 0; }
  #jet-print .scene { margin: 1em 0; text-align: center; text-indent: 0; }
  @page { margin: 2.2cm; }`;

function remove() {
  document.getElementById("jet-print")?.remove();
}

function lay() {
  remove();
  const page = make("div", { id: "jet-print", dir: "auto" }, { "aria-hidden": "true" });
  const names = { title: field("jet-title").value, author: field("jet-author").value };
  page.innerHTML = toHtml(fullText() ?? "", names); // which escapes all that is text
  page.append(make("style", { media: "print", textContent: STYLE }));
  document.body.append(page);
}

/** Starts watching for a printer. */
export function install() {
  addEventListener("beforeprint", lay);
  addEventListener("afterprint", remove);
  matchMedia("print").addEventListener("change", ({ matches }) => {
    if (matches) lay();
    else remove();
  });
}
