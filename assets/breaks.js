// Line breaks of other programs are line breaks here: Word's soft one (a vertical tab), a form feed, and Unicode's own.
const breaks = (() => {
  const OTHER = /[\v\f\u0085\u2028\u2029]/;
  const EVERY = new RegExp(OTHER, "g");
  return {
    // After an input event. What is typed key by key has none of them, and a long text is not searched each time.
    even(under, inputType = "", data = null) {
      if (/^(delete|insert(Text|LineBreak|CompositionText)$)/.test(inputType) && !OTHER.test(data ?? "")) return;
      const text = under.value;
      if (OTHER.test(text)) caret.put(text.replace(EVERY, "\n"), under.selectionEnd);
    },
  };
})();
