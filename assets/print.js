// What a printer gets: the whole story, and nothing else. The box would print what can be seen of it.
const printing = (() => {
  // Gradio moves our style sheet below its own elements, and the paper has none of them.
  const STYLE = `
    body > :not(#jet-print) { display: none !important; }
    html, body { margin: 0; background: white !important; }
    #jet-print {
      color: black; white-space: pre-wrap; overflow-wrap: break-word; unicode-bidi: plaintext; text-align: start; orphans: 2; widows: 2;
      font: 12pt/1.6 Charter, "Bitstream Charter", "Iowan Old Style", Palatino, Georgia, "DejaVu Serif", serif;
    }
    @page { margin: 2.2cm; }`;
  const clear = () => byId("jet-print")?.remove();
  const lay = () => {
    clear();
    const page = Object.assign(document.createElement("div"), { id: "jet-print", dir: "auto", textContent: live.text() });
    page.setAttribute("aria-hidden", "true");
    page.append(Object.assign(document.createElement("style"), { media: "print", textContent: STYLE }));
    document.body.append(page);
  };
  addEventListener("beforeprint", lay);
  addEventListener("afterprint", clear);
  matchMedia("print").addEventListener("change", ({ matches }) => { if (matches) lay(); else clear(); });
})();
