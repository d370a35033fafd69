// The writer's taste: how much is written and how it is drawn, where it stops, how the sheet is painted. It belongs to
// this browser, whatever story is on the sheet. The seed belongs to a story.
const taste = (() => {
  const KEY = "jet-stories:taste";
  const read = () => {
    try {
      const found = JSON.parse(localStorage.getItem(KEY));
      return found && typeof found === "object" && !Array.isArray(found) ? found : {};
    } catch { return {}; }
  };
  let now = read();
  const field = (id) => document.getElementById(id);
  const put = (more) => {
    const next = { ...now, ...more };
    if (JSON.stringify(next) === JSON.stringify(now)) return;
    now = next;
    try { localStorage.setItem(KEY, JSON.stringify(now)); } catch { /* it lasts as long as this tab then */ }
  };
  document.addEventListener("input", ({ target }) => {
    if (target.id === "jet-stops") put({ stops: target.value });
    else if (target.id === "jet-alternatives") put({ alternatives: target.checked });
    else if (target.id === "jet-tint") put({ tint: target.value });
  });

  return {
    // The fields of the page's own as they were; the controls are Gradio's.
    begin() {
      field("jet-stops").value = this.stops();
      if (typeof now.alternatives === "boolean") field("jet-alternatives").checked = now.alternatives;
      const tints = [...field("jet-tint").options].map(({ value }) => value);
      field("jet-tint").value = tints.includes(now.tint) ? now.tint : "whose";
    },
    // What a control was set to last, as [value] or [].
    of(name) {
      const value = now.controls?.[name];
      return ["number", "string"].includes(typeof value) ? [value] : [];
    },
    keep(controls) { put({ controls }); },
    // The texts to stop at: those that are given, or without any as they were.
    stops(text) {
      if (text !== undefined) put({ stops: text });
      return typeof now.stops === "string" ? now.stops : "";
    },
  };
})();
