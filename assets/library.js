// Stories in the browser: what was typed at once, the whole story with its branches a moment later. Each tab has
// a story of its own, which a reload, a crash or a restarted server leaves as it was.
const library = (() => {
  const PREFIX = "jet-stories:";
  const [LONG, SOON_MS, PAUSE_MS, PATIENCE_MS] = [100_000, 300, 700, 3000];
  const keyOf = (kind, id) => `${PREFIX}${kind}:${id}`;
  const fresh = () => `${Date.now().toString(36)}${Math.random().toString(36).slice(2, 6)}`;
  const read = (key) => { try { return localStorage.getItem(key); } catch { return null; } };
  const readIndex = () => { try { return JSON.parse(read(`${PREFIX}index`)) ?? {}; } catch { return {}; } };
  const say = (text, bad = false) => {
    const line = document.getElementById("jet-kept");
    line.textContent = text;
    line.classList.toggle("jet-bad", bad);
  };
  let id = fresh();
  try { id = sessionStorage.getItem(`${PREFIX}id`) ?? id; } catch { /* every load is a new story then */ }
  let timer = 0;
  let since = 0; // when the oldest change was made that is not kept
  let held = false; // while another story comes on the sheet
  let release = () => {}; // lets go of the story, so that it can be come back to

  const hold = () => {
    try { sessionStorage.setItem(`${PREFIX}id`, id); } catch { /* as above */ }
    // A tab that was duplicated has the same story in mind; the second one goes on with a copy.
    const wanted = id;
    navigator.locks?.request(keyOf("tab", id), { ifAvailable: true }, (lock) => {
      if (wanted !== id) return undefined;
      if (lock) return new Promise((resolve) => { release = resolve; });
      id = fresh();
      return hold();
    });
  };
  hold();

  const put = (kind, text) => localStorage.setItem(keyOf(kind, id), text);
  const save = () => {
    clearTimeout(timer);
    timer = 0;
    const [text, index] = [live.text(), readIndex()];
    if (held || text === undefined || (!text && !index[id])) return;
    index[id] = { title: document.getElementById("jet-title").value, preview: text.slice(0, 80), saved: Date.now() };
    const write = () => { put("draft", text); localStorage.setItem(`${PREFIX}index`, JSON.stringify(index)); };
    try {
      try { write(); } catch { localStorage.removeItem(keyOf("copy", id)); write(); } // the words before the branches
      say("Kept in this browser");
    } catch {
      say("Not kept: this browser’s storage is full or forbidden. Save the story as a file, or remove old ones under Stories.", true);
    }
  };
  addEventListener("pagehide", save);

  return {
    id: () => id,
    save,
    // A long text takes the browser a while to put away, so there it waits for a pause, but not for long.
    soon() {
      if (!timer) since = performance.now();
      const long = (box()?.value.length ?? 0) > LONG;
      if (long && performance.now() - since < PATIENCE_MS) { clearTimeout(timer); timer = 0; }
      timer = timer || setTimeout(save, long ? PAUSE_MS : SOON_MS);
    },
    kept: (which = id) => ({ draft: read(keyOf("draft", which)), copy: read(keyOf("copy", which)) }),
    hold(on) { if (on) save(); held = on; },
    turnTo(which) { release(); id = which ?? fresh(); hold(); },
    keep({ copy, dropped }) {
      if (!readIndex()[id]) return;
      try {
        put("copy", copy);
        if (dropped.length) say(`Kept in this browser, without ${dropped.join(", and ")}`);
      } catch {
        try { localStorage.removeItem(keyOf("copy", id)); } catch { /* nothing to remove it from */ }
        say("Only the text is kept: this browser’s storage is full. Save the story as a file to keep its branches.", true);
      }
    },
    remove(which) {
      const index = readIndex();
      delete index[which];
      localStorage.setItem(`${PREFIX}index`, JSON.stringify(index));
      for (const kind of ["draft", "copy"]) localStorage.removeItem(keyOf(kind, which));
    },
    stories: () => Object.entries(readIndex()).sort(([, a], [, b]) => b.saved - a.saved),
  };
})();
