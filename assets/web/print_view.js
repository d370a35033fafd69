// What a printer gets: the whole story, and nothing else. The text box would print what can be seen of it.

import { make } from "./dom.js";
import { fullText } from "./stream_overlay.js";

// Gradio moves the page's style sheet below its own elements, and this one has none of them.
const STYLE = `
  body > :not(#jet-print) { display: none !important; }
  html, body { margin: 0; background: white !important; }
  #jet-print {
    color: black; white-space: pre-wrap; overflow-wrap: break-word; unicode-bidi: plaintext; text-align: start;
    orphans: 2; widows: 2;
    font: 12pt/1.6 Charter, "Bitstream Charter", "Iowan Old Style", Palatino, Georgia, "DejaVu Serif", serif;
  }
  @page { margin: 2.2cm; }`;

function remove() {
  document.getElementById("jet-print")?.remove();
}

function lay() {
  remove();
  const page = make("div", { id: "jet-print", dir: "auto", textContent: fullText() ?? "" });
  page.setAttribute("aria-hidden", "true");
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
