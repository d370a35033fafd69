// Parts that unfold, `details`, stay open where their element is drawn anew: by the names of their summaries.
const parts = (() => {
  const open = new Map(); // names of open parts, by where they stand
  const nameOf = (part) => part.querySelector("summary").firstElementChild?.className + part.querySelector("summary").childNodes[1]?.textContent;
  const of = (where) => [...where.querySelectorAll("details")];
  const note = (part) => {
    const where = part.closest("[id]:not(details)");
    if (!where) return;
    const names = open.get(where.id) ?? new Set();
    if (part.open) names.add(nameOf(part)); else names.delete(nameOf(part));
    open.set(where.id, names);
  };
  document.addEventListener("toggle", ({ target }) => { if (target.localName === "details" && target.isConnected) note(target); }, true);
  return {
    all: () => [...open].map(([id, names]) => [id, [...names]]),
    remember(all) { for (const [id, names] of all) open.set(id, new Set(names)); },
    // Draw something in a place, its parts as open as they were, the focus where it was.
    draw(where, html) {
      const had = of(where).findIndex((part) => part.querySelector("summary") === document.activeElement);
      const name = had < 0 ? null : nameOf(of(where)[had]);
      const scrolled = new Map(of(where).map((part) => [nameOf(part), part.querySelector("pre")?.scrollTop ?? 0]));
      of(where).forEach(note); // of one that is just unfolding nothing was heard yet
      where.innerHTML = html;
      const names = open.get(where.id) ?? new Set();
      for (const part of of(where)) {
        part.open = names.has(nameOf(part));
        if (part.open && scrolled.get(nameOf(part))) part.querySelector("pre").scrollTop = scrolled.get(nameOf(part));
        if (nameOf(part) === name) part.querySelector("summary").focus({ preventScroll: true });
      }
    },
  };
})();
