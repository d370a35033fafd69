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
    if (under.value !== whole) caret.put(whole);
    caret.tellGradio();
  };

  return {
    lies: () => leaf !== null,
    // What scrolls while the model writes.
    paper: () => leaf ?? box(),
    // The story with the new words.
    text(story = box()?.value, by = patch) {
      return by ? story.slice(0, by.from) + by.text + story.slice(by.to) : story;
    },
    // Whether the leaf is a new one.
    show(next) {
      if (leaf && (next.from !== patch.from || next.to !== patch.to)) leaf.remove();
      patch = next;
      const anew = !leaf?.isConnected;
      if (anew) lay(patch);
      if (patch.text.startsWith(words.data)) words.appendData(patch.text.slice(words.data.length));
      else words.data = patch.text;
      return anew;
    },
    // The end of the new words comes into sight.
    follow() {
      const range = document.createRange();
      range.setStart(words, Math.max(0, words.length - 1));
      range.setEnd(words, words.length);
      const [place, frame] = [(words.length ? range : words.parentElement).getBoundingClientRect(), leaf.getBoundingClientRect()];
      if (place.top >= frame.top + 4 && place.bottom <= frame.bottom - 4) return;
      leaf.scrollTop += Math.round((place.top + place.bottom) / 2 - (frame.top + frame.bottom) / 2);
    },
    // The box gets the new words: those that came last, or where nothing more came, those that are there.
    // Returns how far the reader was from the end.
    take(last = patch) {
      const below = leaf && leaf.scrollHeight - leaf.scrollTop;
      if (last) caret.byHand(() => type(last));
      this.drop();
      return below;
    },
    // The leaf goes, and what is on it stays away from the box.
    drop() {
      leaf?.remove();
      leaf = words = patch = null;
    },
  };
})();
