// The shortcuts. They go by the letter on the key, not by its place, which another keyboard gives to another letter,
// and never take a key that writes a character: AltGr is no Alt, and on a Mac Option writes, so that Ctrl goes with it.
const keys = (() => {
  const MAC = /mac|iphone|ipad/i.test(navigator.userAgentData?.platform || navigator.platform);
  const FIELDS = "textarea, select, [contenteditable], input:not([type=range], [type=checkbox], [type=radio], [type=file], [type=button])";

  // The Latin letter of a key; where the keyboard has other letters, that of its place.
  const letterOf = ({ key, code }) => {
    if (/^[a-z]$/i.test(key)) return key.toLowerCase();
    const foreign = /^\p{L}$/u.test(key) && !/^\p{Script=Latin}$/u.test(key);
    return foreign || (MAC && key !== "Dead") ? /^Key([A-Z])$/.exec(code)?.[1].toLowerCase() ?? "" : "";
  };
  const isAltGraph = (event) => event.getModifierState?.("AltGraph") ?? false;
  const hasControl = (event) => (event.ctrlKey || event.metaKey) && !event.altKey && !isAltGraph(event);
  const hasAlt = (event) => event.altKey && !event.metaKey && event.ctrlKey === MAC && !isAltGraph(event);
  // Undo in another field is that field's own.
  const isElsewhere = ({ target }) => target !== box() && target.closest?.(FIELDS);

  // What a key does, by its name; nothing if it is for the text.
  const found = (event) => {
    const { key, shiftKey, isComposing, keyCode, target } = event;
    if (isComposing || keyCode === 229) return null;
    if (key === "Escape") return "stop";
    if (key === "Enter" && hasControl(event)) return shiftKey ? "cursor" : "go";
    if (key === "Enter" && target.id === "jet-about-what") return "ask";
    const letter = letterOf(event);
    if (hasControl(event) && !isElsewhere(event)) {
      if (letter === "z") return shiftKey ? "redo" : "undo";
      if (letter === "y" && !shiftKey) return "redo";
    }
    if (hasAlt(event) && !shiftKey) return { r: "retry", w: "word", b: "fork" }[letter] ?? null;
    return null;
  };

  return {
    found,
    isShortcut: (event) => found(event) !== null || hasAlt(event),
  };
})();
