// What the model writes into a long story. To put a long text into a box takes a browser tenths of a second, and
// the model brings some twenty times a second: so a leaf of its own lies on the sheet meanwhile, with the lines
// around the place of writing, and the box gets the new words once, at the end.
const live = (() => {
  const AROUND = 20_000; // characters of the story before and behind the new words that can be seen
  let leaf = null;
  let words = null; // the text node of the new words
  let patch = null; // what is exchanged: the characters from `from` to before `to` for `text`

  const lay = ({ from, to }) => {
    const [under, story, style] = [box(), box().value, getComputedStyle(box())];
    const start = story.lastIndexOf("\n", Math.max(0, from - AROUND)) + 1;
    leaf = document.createElement("div");
    leaf.id = "jet-leaf";
    leaf.setAttribute("aria-hidden", "true");
    for (const name of ["font", "letterSpacing", "padding"]) leaf.style[name] = style[name];
    for (const [name, key] of [["left", "Left"], ["top", "Top"], ["width", "Width"], ["height", "Height"]]) {
      leaf.style[name] = `${under[`offset${key}`]}px`;
    }
    const by = document.createElement("span");
    if (byId("jet-tint").value === "whose") by.className = "jet-new-words";
    words = document.createTextNode("");
    by.append(words);
    leaf.append(story.slice(start, from), by, story.slice(to, to + AROUND));
    under.parentElement.append(leaf);
  };

  // As a writer would type it, so that the browser lays out what is new and not the whole story again. That takes
  // the focus for a moment, which under a finger would bring up the keyboard.
  const type = ({ from, to, text }) => {
    const [under, focused, story] = [box(), document.activeElement, box().value];
    if (from === to && !text) return;
    const whole = story.slice(0, from) + text + story.slice(to);
    if (matchMedia("(pointer: fine)").matches) {
      under.focus({ preventScroll: true });
      under.setSelectionRange(from, to);
      document.execCommand(text ? "insertText" : "delete", false, text);
      if (focused !== under) {
        under.blur();
        focused?.focus?.({ preventScroll: true });
      }
    }
    if (under.value === whole) return;
    under.value = whole;
    under.dispatchEvent(new Event("input", { bubbles: true }));
  };

  return {
    lies: () => leaf !== null,
    // What scrolls while the model writes.
    paper: () => leaf ?? box(),
    // The story with the new words.
    text() {
      const story = box()?.value;
      return patch ? story.slice(0, patch.from) + patch.text + story.slice(patch.to) : story;
    },
    show(next) {
      if (leaf && (next.from !== patch.from || next.to !== patch.to)) leaf.remove();
      patch = next;
      if (!leaf?.isConnected) lay(patch);
      if (patch.text.startsWith(words.data)) words.appendData(patch.text.slice(words.data.length));
      else words.data = patch.text;
    },
    // Where the new words begin comes into sight.
    reveal: () => words.parentElement.scrollIntoView({ block: "nearest" }),
    // The box gets the new words: those that came last, or where nothing more came, those that are there.
    // Returns how far the reader was from the end.
    take(last = patch) {
      const below = leaf && leaf.scrollHeight - leaf.scrollTop;
      if (last) type(last);
      leaf?.remove();
      leaf = words = patch = null;
      return below;
    },
  };
})();
