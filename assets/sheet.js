// The sheet: the text box, and a mirror of its text laid over it, invisible but for the wash behind words that
// are marked. The box stays what it is, so that typing, selecting and reading aloud work as everywhere.
let theBox = null;
const box = () => {
  if (!theBox?.isConnected) {
    theBox = document.querySelector("#jet-story textarea");
    if (theBox) caret.own(theBox);
  }
  return theBox;
};

const sheet = (() => {
  const LEVELS = ["jet-model", "jet-doubt-1", "jet-doubt-2", "jet-doubt-3"];
  const paintable = typeof Highlight === "function" && CSS.highlights;
  let text = "";
  let marks = []; // flat: start, end, level, in order
  let lines = []; // as they stand in the mirror, one element each
  let starts = []; // where each line begins
  let pointed = null; // where a word stands that is pointed at
  let mirror = null;
  let due = 0;

  const ensureMirror = () => {
    if (mirror?.isConnected) return;
    mirror = document.createElement("div");
    mirror.id = "jet-mirror";
    mirror.setAttribute("aria-hidden", "true");
    box().parentElement.append(mirror);
    lines = [];
    new ResizeObserver(later).observe(box());
  };

  // Only lines that differ are touched, so that a long story costs no more than a short one.
  const copyText = () => {
    const now = text.split("\n");
    let first = 0;
    while (first < lines.length && first < now.length && lines[first] === now[first]) first += 1;
    let [oldEnd, newEnd] = [lines.length, now.length];
    while (oldEnd > first && newEnd > first && lines[oldEnd - 1] === now[newEnd - 1]) { oldEnd -= 1; newEnd -= 1; }
    const shared = Math.min(oldEnd, newEnd);
    const put = (element, line) => {
      if (line) element.textContent = line;
      else element.replaceChildren(document.createElement("br"));
    };
    for (let index = first; index < shared; index += 1) put(mirror.children[index], now[index]);
    for (let index = oldEnd - 1; index >= shared; index -= 1) mirror.children[index].remove();
    if (newEnd > shared) {
      const added = document.createDocumentFragment();
      for (let index = shared; index < newEnd; index += 1) {
        const element = document.createElement("div");
        put(element, now[index]);
        added.append(element);
      }
      mirror.insertBefore(added, mirror.children[shared] ?? null);
    }
    lines = now;
    starts = [];
    for (let index = 0, at = 0; index < now.length; at += now[index].length + 1, index += 1) starts.push(at);
  };

  const place = () => {
    const [from, style] = [box(), getComputedStyle(box())];
    for (const name of ["font", "letterSpacing", "paddingTop", "paddingRight", "paddingBottom", "paddingLeft"]) {
      mirror.style[name] = style[name];
    }
    mirror.style.left = `${from.offsetLeft + from.clientLeft}px`;
    mirror.style.top = `${from.offsetTop + from.clientTop}px`;
    mirror.style.width = `${from.clientWidth}px`;
    mirror.style.height = `${from.clientHeight}px`;
    mirror.scrollTop = from.scrollTop;
  };

  // The last place in a sorted list that is not beyond a value.
  const before = (length, valueAt, value) => {
    let [low, high] = [0, length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (valueAt(middle) <= value) low = middle + 1; else high = middle;
    }
    return Math.max(0, low - 1);
  };

  const rangeIn = (index, start, end) => {
    const node = mirror.children[index].firstChild;
    if (node?.nodeType !== Node.TEXT_NODE) return null;
    const range = document.createRange();
    range.setStart(node, Math.max(0, start - starts[index]));
    range.setEnd(node, Math.min(node.length, end - starts[index]));
    return range;
  };

  // Marks are painted where they can be seen, and nowhere else.
  const paintVisible = () => {
    const found = LEVELS.map(() => []);
    const top = mirror.scrollTop - 200;
    const bottom = mirror.scrollTop + mirror.clientHeight + 200;
    const offset = (index) => mirror.children[index].offsetTop;
    const [from, to] = [before(lines.length, offset, top), before(lines.length, offset, bottom)];
    const end = starts[to] + lines[to].length;
    let mark = before(marks.length / 3, (index) => marks[3 * index], starts[from]) * 3;
    for (; mark < marks.length && marks[mark] < end; mark += 3) {
      const [start, stop, level] = [Math.max(marks[mark], starts[from]), Math.min(marks[mark + 1], end), marks[mark + 2]];
      for (let line = before(starts.length, (index) => starts[index], start); line <= to && starts[line] < stop; line += 1) {
        if (start <= starts[line] + lines[line].length) found[level].push(rangeIn(line, start, stop));
      }
    }
    found.forEach((ranges, level) => {
      CSS.highlights.set(LEVELS[level], new Highlight(...ranges.filter(Boolean)));
    });
  };

  const paint = (always = false) => {
    due = 0;
    if (!box()) return;
    ensureMirror();
    mirror.hidden = !always && ((!marks.length && !pointed) || !paintable);
    if (mirror.hidden) {
      if (paintable) for (const name of [...LEVELS, "jet-pointed"]) CSS.highlights.delete(name);
      return;
    }
    copyText();
    place();
    if (!paintable) return;
    paintVisible();
    const range = pointed && rangeIn(before(starts.length, (index) => starts[index], pointed[0]), ...pointed);
    if (range) CSS.highlights.set("jet-pointed", new Highlight(range)); else CSS.highlights.delete("jet-pointed");
  };
  const later = () => { due = due || requestAnimationFrame(() => paint()); };

  // How many of at most so many characters two texts have in common, at their start or at their end. By halving,
  // so that the comparing is the browser's own, which takes no time to speak of for a million of them.
  const alike = (one, other, most, atEnd) => {
    const same = (from, to) => atEnd
      ? one.slice(one.length - to, one.length - from) === other.slice(other.length - to, other.length - from)
      : one.slice(from, to) === other.slice(from, to);
    let [low, high] = [0, most];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (same(low, middle)) low = middle; else high = middle - 1;
    }
    return low;
  };

  // A piece of the text was exchanged. Marks move with their words; new words have none, unless they are the model's.
  const shift = (at, removed, added, byModel) => {
    const moved = [];
    const put = (start, end, level) => {
      const last = moved.length - 3;
      if (start >= end) return;
      if (last >= 0 && moved[last + 1] === start && moved[last + 2] === level) moved[last + 1] = end;
      else moved.push(start, end, level);
    };
    let open = byModel;
    const putNew = () => { if (open) put(at, at + added, 0); open = false; };
    for (let index = 0; index < marks.length; index += 3) {
      const [start, end, level] = [marks[index], marks[index + 1], marks[index + 2]];
      put(Math.min(start, at), Math.min(end, at), level);
      if (end > at) putNew();
      const rest = at + removed;
      if (end > rest) put(Math.max(start, rest) + added - removed, end + added - removed, level);
    }
    putNew();
    marks = moved;
  };

  // What makes one text of the other: the characters from `from` to before `to` give way to `text`. Where that can
  // be said in several ways, it was done in front of `cursor`.
  const edit = (before, now, cursor = now.length) => {
    const tail = before.endsWith(now.slice(cursor)) ? now.length - cursor : 0;
    const most = Math.min(before.length, now.length) - tail;
    const from = alike(before, now, most, false);
    const behind = tail + alike(before.slice(0, before.length - tail), now.slice(0, now.length - tail), most - from, true);
    return { of: before.length, from, to: before.length - behind, text: now.slice(from, now.length - behind) };
  };

  return {
    edit,
    // The text has changed; `byModel` says who did it, where that is to be shown, and `cursor` where somebody
    // who typed is now: " a" typed between "b" and " c" is that, and not "a ".
    changed(now, byModel, cursor = now.length) {
      if (now === text) return;
      const { from, to, text: added } = edit(text, now, cursor);
      if (marks.length || byModel) shift(from, to - from, added.length, byModel);
      text = now;
      later();
    },
    text: () => text,
    // `found` are the marks of a text, which may have been typed in since.
    mark(found, of = box().value) {
      marks = found;
      text = of;
      if (of !== box().value) this.changed(box().value, false, box().selectionEnd);
      later();
    },
    // Points at a piece of the text, or at nothing.
    point(start = 0, end = 0) {
      pointed = end > start ? [start, end] : null;
      later();
    },
    scrolled() {
      if (!mirror || mirror.hidden) return;
      mirror.scrollTop = box().scrollTop;
      later();
    },
    // Where on the screen the caret would be at a place of the text.
    placeOf(at) {
      paint(true);
      const index = before(starts.length, (line) => starts[line], at);
      const range = rangeIn(index, Math.max(starts[index], at - 1), Math.max(at, starts[index] + 1));
      later();
      return [...(range?.getClientRects() ?? [])].at(-1) ?? mirror.children[index].getBoundingClientRect();
    },
    // Where on the screen a piece of the text begins.
    rectOf(start, end) {
      paint(true);
      const range = rangeIn(before(starts.length, (index) => starts[index], start), start, end);
      return (range ?? mirror).getBoundingClientRect();
    },
  };
})();
