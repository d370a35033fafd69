// The writer's hand while the model writes. The sheet is never locked: the first key stops the writing and goes where
// the caret is, which moves along with the new words until the writer moves it; what the model still brings after that
// stays away. A wish to stop holds from the click on Continue on, whatever the server has heard so far.
const takeover = (() => {
  const [AGAIN_MS, LATE_MS] = [1500, 1000];
  let taken = false; // the writer's words stand; the model's are no longer wanted
  let stopping = false;
  let again = 0; // the timer that repeats a stop, which may have been lost
  let behind = null; // how much stands behind the new words
  let seen = null; // where the new words ended when the writer stopped them
  let riding = false; // the caret moves along with them
  let left = [0, 0]; // where it was put last
  let base = ""; // the text that the writing began with
  let brought = null; // the text that came last
  let ended = 0; // when
  let later = []; // what is to be done when the writing has ended

  const leave = () => { left = [box().selectionStart, box().selectionEnd]; };
  const rides = () => {
    riding = riding && box().selectionStart === left[0] && box().selectionEnd === left[1];
    return riding;
  };
  const show = (text) => {
    const ride = rides();
    caret.put(text, ride && behind !== null ? Math.max(0, text.length - behind) : null);
    if (ride && behind === null) {
      const end = sheet.edit(sheet.text(), text);
      box().setSelectionRange(end.from + end.text.length, end.from + end.text.length);
    }
    sheet.changed(text, byId("jet-tint").value === "whose");
    leave();
  };
  const stop = () => {
    clearTimeout(again);
    if (!writing) return;
    if (!stopping && !taken) seen = behind !== null ? Math.max(0, live.text().length - behind) : brought === null ? 0 : null;
    stopping = true;
    again = setTimeout(() => byId("jet-stop").click(), AGAIN_MS);
  };
  const ask = () => { if (writing && !stopping) byId("jet-stop").click(); };
  // Puts the words of the leaf into the box, with the caret behind them.
  const lift = () => {
    if (!live.lies()) return;
    const ride = rides();
    live.take();
    if (ride && behind !== null) box().setSelectionRange(box().value.length - behind, box().value.length - behind);
  };
  const take = () => {
    if (!writing || taken) return;
    lift();
    ask(); // before anything of the writer's is on the sheet
    taken = true;
  };
  // What would have changed the box is done anew, now that the box has the model's words.
  const redo = ({ inputType, data, dataTransfer }) => {
    if (inputType.startsWith("delete")) document.execCommand(inputType.endsWith("Forward") ? "forwardDelete" : "delete");
    else {
      const text = /^insert(Line|Para)/.test(inputType) ? "\n" : data ?? dataTransfer?.getData("text/plain") ?? "";
      document.execCommand("insertText", false, text);
    }
  };
  // Whether a key writes, or begins something that does.
  const writes = ({ key, ctrlKey, metaKey, altKey, isComposing, keyCode }) => {
    if (isComposing || keyCode === 229 || key === "Dead" || key === "Process") return true;
    if ((ctrlKey || metaKey) && !altKey) return /^[vx]$/i.test(key);
    return key.length === 1 || ["Enter", "Backspace", "Delete"].includes(key);
  };

  document.addEventListener("keydown", (event) => {
    if (!writing || event.defaultPrevented || keys.isShortcut(event) || !writes(event)) return;
    const { target } = event;
    // The Enter that began the writing is still held down.
    if (event.repeat && event.key === "Enter" && !taken) return event.preventDefault();
    if (target !== box()) {
      // Who types at nothing means the story.
      if (target.closest?.("input, textarea, select, summary, [contenteditable], [role=tab], #jet-popover, #jet-below button")) return;
      if (target.matches?.("button:enabled:focus-visible") && [" ", "Enter"].includes(event.key)) return;
      box().focus({ preventScroll: true });
    }
    if (live.lies()) take();
  });
  document.addEventListener("beforeinput", (event) => {
    if (event.target !== box() || caret.isOwn() || !writing) return;
    if (event.inputType.startsWith("history")) return;
    const lay = live.lies();
    take();
    if (!lay || !event.cancelable) return;
    event.preventDefault();
    redo(event);
  }, true);
  document.addEventListener("compositionstart", ({ target }) => { if (target === box()) take(); }, true);
  document.addEventListener("dragover", (event) => { if (event.target.closest?.("#jet-leaf")) event.preventDefault(); });
  document.addEventListener("drop", (event) => {
    const text = event.dataTransfer?.getData("text/plain");
    if (!text || !event.target.closest?.("#jet-leaf")) return;
    event.preventDefault();
    take();
    box().focus({ preventScroll: true });
    document.execCommand("insertText", false, text);
  });

  return {
    isTaken: () => taken,
    isStopping: () => stopping,
    behind: () => behind,
    base: () => base,
    rides,
    // What the model has beyond that was never on the sheet.
    seen: () => (seen === null ? {} : { seen }),
    ask,
    stop,
    // Something is to be done when the writing has ended, given whether that has brought any words.
    after(what) { later.push(what); },
    begin({ do: what, at }) {
      taken = stopping = false;
      seen = null;
      later = [];
      brought = null;
      caret.commit();
      base = box().value;
      behind = what === "continue" ? 0 : what === "cursor" ? Math.max(0, base.length - at) : null;
      riding = what !== "ways";
      if (behind !== null) box().setSelectionRange(base.length - behind, base.length - behind);
      leave();
    },
    // The server says what stands behind the new words.
    place(units) { behind = units; },
    // Gradio puts a text into the box.
    arrive(text) {
      if (text === box().value) return;
      if (writing && stopping) return;
      if (!writing) {
        // It is older than what was typed.
        if (text === caret.given() || (text === brought && performance.now() - ended < LATE_MS)) return;
        caret.put(text);
        return;
      }
      brought = text;
      show(text);
    },
    // The writer has changed the box, and nothing said so before.
    typed() {
      if (!writing || taken) return;
      if (live.lies()) {
        const [now, change] = [box().value, sheet.edit(base, box().value, box().selectionEnd)];
        const words = live.text(base);
        const typed = caret.overlay(words, now.length, change, -1, sheet.edit(base, words));
        live.drop();
        caret.put(typed.text, typed.at);
        seen = behind === null ? null : Math.max(0, words.length - behind);
      } else seen = behind === null ? null : Math.max(0, sheet.text().length - behind);
      taken = true;
      ask();
    },
    // The writing has ended; `text` is what it came to, where that is known. Returns what the server has.
    end(text) {
      clearTimeout(again);
      ended = performance.now();
      stopping = false;
      if (taken) {
        live.drop();
        caret.tellGradio();
      } else if (text !== null && text !== undefined && !live.lies()) {
        brought = text;
        show(text);
      }
      return later.splice(0);
    },
  };
})();
