// Where the writer was: the caret, how far the sheet and the page were scrolled, which parts stood open, and what was
// half typed. A reload of the tab comes back to it. A story opened otherwise begins at its own place.
const whereabouts = (() => {
  const KEY = "jet-stories:place";
  const HALF = "#jet-guidance, #jet-lore, #jet-about-field, #jet-title"; // where something may be half typed
  const [KEEP_MS, PATIENCE_MS] = [1000, 8000];
  const read = () => { try { return JSON.parse(sessionStorage.getItem(KEY)) ?? {}; } catch { return {}; } };
  const before = read();
  let restored = false;
  const typed = {}; // half typed, by where it stands; what was left is the desk's

  const nameOf = (field) => {
    const entry = field.closest(".jet-entry");
    if (entry) return `lore ${[...entry.parentElement.children].indexOf(entry)} ${field.dataset.lore}`;
    return field.id;
  };
  const fieldOf = (name) => {
    const [lore, index, key] = name.split(" ");
    if (lore !== "lore") return document.getElementById(name);
    for (let missing = Number(index) + 1 - document.querySelectorAll("#jet-lore .jet-entry").length; missing > 0; missing -= 1) {
      document.getElementById("jet-lore").append(document.getElementById("jet-lore-row").content.cloneNode(true));
    }
    return document.querySelectorAll("#jet-lore .jet-entry")[Number(index)]?.querySelector(`[data-lore="${key}"]`);
  };
  document.addEventListener("input", ({ target }) => {
    if (target.closest(HALF)) typed[nameOf(target)] = target.type === "checkbox" ? target.checked : target.value;
  });

  const accordion = () => document.querySelector("#jet-further button");
  const isOpen = () => accordion()?.classList.contains("open") ?? false;
  const keep = () => {
    if (!restored || !box()) return;
    const { selectionStart: from, selectionEnd: to, scrollTop: scroll } = box();
    const now = {
      id: library.id(), from, to, scroll, page: scrollY, focused: document.activeElement === box(), typed,
      drawer: document.querySelector(".jet-tabs [aria-selected=true]")?.dataset.drawer,
      further: isOpen(), numbers: document.getElementById("jet-unfold").checked, parts: parts.all(),
      seed: document.querySelector("#jet-seed input")?.value ?? "",
    };
    try { sessionStorage.setItem(KEY, JSON.stringify(now)); } catch { /* a reload begins at the top then */ }
  };
  addEventListener("pagehide", keep);
  setInterval(keep, KEEP_MS); // a tab may crash

  // Once the sheet has the text: the caret and the place of the sheet and of the page.
  const goBack = (text, since = performance.now()) => {
    if (restored) return;
    if (box().value !== text && performance.now() - since < PATIENCE_MS) { requestAnimationFrame(() => goBack(text, since)); return; }
    if (before.focused && matchMedia("(pointer: fine)").matches) box().focus({ preventScroll: true });
    box().setSelectionRange(before.from, before.to);
    box().scrollTop = before.scroll;
    scrollTo(0, before.page);
    restored = true;
  };

  for (const event of ["keydown", "pointerdown", "wheel"]) {
    addEventListener(event, () => { if (document.body.contains(box())) restored = true; }, { capture: true, passive: true });
  }

  return {
    seed: () => (before.id === library.id() ? before.seed : undefined),
    // The story that this tab had is on its way to the sheet.
    begin(text, openDrawer) {
      if (before.id !== library.id()) { restored = true; return; }
      parts.remember(before.parts ?? []);
      if (before.drawer) openDrawer(before.drawer);
      if (before.numbers) document.getElementById("jet-unfold").checked = true;
      if (before.further && !isOpen()) accordion()?.click();
      if (text) goBack(text); else restored = true;
    },
    // Its guidance is there: what was half typed comes back over it. Returns whether anything did.
    finish() {
      const found = Object.entries(before.id === library.id() ? before.typed ?? {} : {});
      before.typed = {};
      for (const [name, value] of found) {
        const field = fieldOf(name);
        if (!field) continue;
        if (field.type === "checkbox") field.checked = value; else field.value = value;
        typed[name] = value;
      }
      return found.map(([name]) => name);
    },
    typed: () => ({ ...typed }),
    // The desk has what these fields held.
    heard(sent) {
      for (const [name, value] of Object.entries(sent)) if (typed[name] === value) delete typed[name];
    },
  };
})();
