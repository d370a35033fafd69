// Stories in the browser: what was typed at once, the whole story with its branches a moment later. Each tab has
// a story of its own, which a reload, a crash or a restarted server leaves as it was. A tab whose story another tab
// has only shows it: once something is written there, that is kept as a copy.
const library = (() => {
  const PREFIX = "jet-stories:";
  const [LONG, SOON_MS, PAUSE_MS, PATIENCE_MS] = [100_000, 300, 700, 3000];
  const OWNER = "This story is open in another tab, too. What is written there is kept as a copy.";
  const GUEST = "This story is open in another tab. What you write here is kept as a copy.";
  const COPY = "This is a copy: the story is open in another tab.";
  const FULL = "Not kept: this browser’s storage is full or forbidden. Save the story as a file, or remove old ones under Stories.";
  const TEXT_ONLY = "Only the text is kept: this browser’s storage is full. Save the story as a file to keep its branches.";
  const keyOf = (kind, id) => `${PREFIX}${kind}:${id}`;
  const fresh = () => `${Date.now().toString(36)}${Math.random().toString(36).slice(2, 6)}`;
  const read = (key) => { try { return localStorage.getItem(key); } catch { return null; } };
  const readIndex = () => { try { return JSON.parse(read(`${PREFIX}index`)) ?? {}; } catch { return {}; } };
  const writeIndex = (index) => localStorage.setItem(`${PREFIX}index`, JSON.stringify(index));
  const say = (text, bad = false) => {
    const line = document.getElementById("jet-kept");
    if (line.textContent === text) return;
    line.textContent = text;
    line.classList.toggle("jet-bad", bad);
    if (bad) notices.show("storage", text, { goes: true }); else notices.clear("storage");
  };
  let id = fresh();
  try { id = sessionStorage.getItem(`${PREFIX}id`) ?? id; } catch { /* every load is a new story then */ }
  let timer = 0;
  let since = 0; // when the oldest change was made that is not kept
  let held = false; // while another story comes on the sheet
  let standing = "asking"; // then "owner" or "guest"
  let shown = null; // the text that a guest was given
  let latest = null; // the story with its branches as it came last, where the browser cannot keep it
  let missing = { text: false, branches: false }; // what is kept nowhere
  let filed = null; // the text that was last saved as a file

  const remember = () => { try { sessionStorage.setItem(`${PREFIX}id`, id); } catch { /* as above */ } };
  const claim = async (given) => {
    const wanted = id;
    standing = "asking";
    shown = given;
    remember();
    const has = await tabs.claim(wanted);
    if (wanted !== id || standing !== "asking") return;
    standing = has ? "owner" : "guest";
    if (has) notices.clear("tabs"); else notices.show("tabs", GUEST, { goes: true });
    library.soon();
  };
  // From here on this tab has a story of its own, beside the one that another tab has.
  const part = () => {
    const [index, from] = [readIndex(), id];
    id = fresh();
    copyOf = index[from]?.from ?? from;
    standing = "owner";
    latest = null;
    tabs.take(id);
    remember();
    notices.show("tabs", COPY, { goes: true });
  };
  let copyOf = null; // the story that this one is a copy of
  tabs.watch({
    asked: () => notices.show("tabs", OWNER, { goes: true }),
    lost() { // taken for crashed, as after a long sleep
      if (standing !== "owner") return;
      standing = "guest";
      shown = read(keyOf("draft", id));
      notices.show("tabs", GUEST, { goes: true });
      library.soon();
    },
    left(which) {
      if (which !== id) return;
      notices.clear("tabs");
      if (standing === "guest" && read(keyOf("draft", id)) === shown) claim(shown);
    },
  });

  const putCopy = (copy) => {
    try {
      put("copy", copy);
      latest = null;
      missing.branches = false;
      return true;
    } catch { return false; }
  };
  const put = (kind, text) => localStorage.setItem(keyOf(kind, id), text);
  // `after` comes once it is clear whose story it is.
  const save = (after) => {
    clearTimeout(timer);
    timer = 0;
    const text = live.text();
    if (held || text === undefined) return;
    if (standing === "asking") { timer = setTimeout(() => save(after), SOON_MS); return; }
    if (standing === "owner" && !tabs.has(id)) standing = "guest";
    if (standing === "guest") {
      if (text === shown) return;
      part();
    }
    const index = readIndex();
    if (!text && !index[id] && !latest) return;
    const copies = Object.values(index).filter(({ from }) => from && from === copyOf);
    const before = index[id] ?? (copyOf ? { from: copyOf, copy: 1 + Math.max(0, ...copies.map(({ copy }) => copy ?? 1)) } : {});
    index[id] = { ...before, title: document.getElementById("jet-title").value, preview: text.slice(0, 80), saved: Date.now() };
    const write = () => { put("draft", text); writeIndex(index); };
    const makeRoom = () => { // the words before the branches
      latest ??= read(keyOf("copy", id));
      missing.branches = latest !== null;
      localStorage.removeItem(keyOf("copy", id));
    };
    try {
      try { write(); } catch { makeRoom(); write(); }
      missing.text = false;
      if (missing.branches && latest !== null) putCopy(latest);
      if (!missing.branches) say("Saved on this device ✓");
    } catch {
      missing.text = true;
      say(FULL, true);
    }
    after?.();
  };
  // A page that goes before it knows whether the story is its own leaves what was written as a copy.
  addEventListener("pagehide", () => {
    const [text, kept] = [live.text(), read(keyOf("draft", id))];
    if (standing === "asking" && text && text !== kept) {
      if (kept === null) standing = "owner"; else part();
    }
    if (standing !== "asking") save();
    if (standing === "owner") tabs.release(); else tabs.pass(id);
    if (copyOf) tabs.pass(copyOf);
  });
  addEventListener("pageshow", ({ persisted }) => { if (persisted) claim(live.text()); });

  return {
    id: () => id,
    begin: () => claim(read(keyOf("draft", id)) ?? ""),
    save,
    // A long text takes the browser a while to put away, so there it waits for a pause, but not for long.
    soon() {
      if (!timer) since = performance.now();
      const long = (box()?.value.length ?? 0) > LONG;
      if (long && performance.now() - since < PATIENCE_MS) { clearTimeout(timer); timer = 0; }
      timer = timer || setTimeout(() => save(), long ? PAUSE_MS : SOON_MS);
    },
    kept: (which = id) => ({
      draft: read(keyOf("draft", which)),
      copy: (which === id ? latest : null) ?? read(keyOf("copy", which)),
    }),
    hold(on) { if (on) save(); held = on; },
    turnTo(which) {
      if (standing === "owner") tabs.release(); else tabs.pass(id);
      id = which ?? fresh();
      latest = copyOf = filed = null;
      missing = { text: false, branches: false };
      notices.clear("tabs");
      held = false;
      if (which) claim(read(keyOf("draft", which)) ?? "");
      else { standing = "owner"; remember(); tabs.take(id); }
    },
    keep({ copy, dropped, empty }) {
      if (standing === "asking") { setTimeout(() => library.keep({ copy, dropped, empty }), SOON_MS); return; }
      if (!tabs.has(id)) part();
      const known = readIndex()[id];
      if (empty && !known) return;
      latest = copy;
      if (!known) save(); // guidance without a text
      if (putCopy(copy)) {
        missing.branches = dropped.some((what) => what.includes("branch"));
        if (dropped.length && !missing.text) say(`Saved on this device, without ${dropped.join(", and ")}`);
      } else {
        try { localStorage.removeItem(keyOf("copy", id)); } catch { /* nothing to remove it from */ }
        missing.branches = true;
        if (!missing.text) say(TEXT_ONLY, true);
      }
    },
    // The story has been saved as a file.
    filed() { filed = live.text(); },
    // Whether something of this story would be gone for good if another came on the sheet.
    unkept() {
      save();
      const text = live.text();
      return (missing.text && Boolean(text || latest) || missing.branches) && text !== filed;
    },
    remove(which) {
      try {
        const index = readIndex();
        delete index[which];
        for (const kind of ["draft", "copy"]) localStorage.removeItem(keyOf(kind, which));
        tabs.forget(which);
        writeIndex(index);
      } catch { /* there is nothing to remove then */ }
    },
    stories: () => Object.entries(readIndex()).sort(([, a], [, b]) => b.saved - a.saved),
  };
})();
