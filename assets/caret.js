// Puts text on the sheet from outside, with caret and view where a writer expects them. Gradio sets the value of the
// box, which moves the caret to its end and takes no account of who is typing: so the box's value is our property.
const caret = (() => {
  const native = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value");
  let given = null; // the text that was put last
  let own = 0; // how deep we are in changes of our own, which are no typing
  let composing = false; // an input method has letters that are not final
  let composed = []; // who waits for the end of that

  // Where a place of one text is in the other, by the edit that makes one of the other.
  const moved = (at, { from, to, text }) => {
    if (at <= from) return at;
    return at >= to ? at + text.length - (to - from) : from + text.length;
  };
  const byHand = (change) => {
    own += 1;
    try { return change(); } finally { own -= 1; }
  };
  // Gradio has its own idea of the text, which follows the box's input events.
  const tellGradio = () => byHand(() => box().dispatchEvent(new Event("input", { bubbles: true })));

  // Makes this the text. The caret goes to `at`, or stays with its words; the view stays.
  const put = (text, at = null) => {
    given = text;
    const under = box();
    const before = native.get.call(under);
    if (before !== text) {
      const change = sheet.edit(before, text);
      const { selectionStart, selectionEnd, selectionDirection, scrollTop } = under;
      native.set.call(under, text);
      under.setSelectionRange(moved(selectionStart, change), moved(selectionEnd, change), selectionDirection);
      under.scrollTop = scrollTop;
    }
    if (at !== null) under.setSelectionRange(at, at);
  };

  // Scrolls the sheet, and the page if `page`, so that a place of the text can be seen. What is in sight stays.
  const reveal = (at = box().selectionEnd, page = true) => {
    const under = box();
    const { top, bottom } = sheet.placeOf(at);
    const frame = under.getBoundingClientRect();
    let shift = 0;
    if (top < frame.top + 4 || bottom > frame.bottom - 4) {
      const before = under.scrollTop;
      under.scrollTop += Math.round((top + bottom) / 2 - (frame.top + frame.bottom) / 2);
      shift = under.scrollTop - before;
    }
    if (!page) return;
    if (top - shift < 0) scrollBy(0, top - shift - innerHeight / 3);
    else if (bottom - shift > innerHeight) scrollBy(0, bottom - shift - (2 * innerHeight) / 3);
  };

  document.addEventListener("compositionstart", ({ target }) => { composing = target === box(); }, true);
  document.addEventListener("compositionend", ({ target }) => {
    if (target !== box()) return;
    setTimeout(() => { // after the input event that ends it
      composing = false;
      for (const resolve of composed.splice(0)) resolve();
    });
  }, true);

  return {
    put,
    reveal,
    moved,
    byHand,
    tellGradio,
    given: () => given,
    isOwn: () => own > 0,
    isComposing: () => composing,
    // An input method would lose its letters if the text changed under them.
    settled: () => new Promise((resolve) => { if (composing) composed.push(resolve); else resolve(); }),
    // What an input method has becomes text.
    commit() {
      if (!composing) return;
      box().blur();
      composing = false;
      box().focus({ preventScroll: true });
    },
    // The box is ours from here on.
    own(element) {
      element.dir = "auto";
      Object.defineProperty(element, "value", {
        configurable: true,
        get() { return native.get.call(this); },
        set(text) { takeover.arrive(String(text ?? "")); },
      });
      return element;
    },
    // Puts what was typed over another text than it was typed into. It was typed at `was`, where the caret is now at
    // `at`, or somewhere else, where it then goes. Returns the text, and where the caret is after it.
    overlay(text, at, typed, was, change) {
      const atCaret = typed.from <= was && was <= typed.to;
      const end = atCaret ? at : Math.min(text.length, moved(typed.to, change));
      const start = Math.max(0, end - (typed.to - typed.from));
      return { text: text.slice(0, start) + typed.text + text.slice(end), at: start + typed.text.length };
    },
  };
})();
