// Which tab has which story. Two that write one story would overwrite each other, so one has it and the others go
// on with copies. Tabs ask each other, and whoever has a story leaves word of it in the browser's storage every
// second: of a tab that has crashed only that is left, and it soon counts for nothing. Works without a secure
// context, which the browser's own locks do not.
const tabs = (() => {
  const PREFIX = "jet-stories:tab:";
  const [BEAT_MS, STALE_MS] = [1000, 4000];
  const [ANSWER_MS, LONG_ANSWER_MS] = [200, 1500]; // waited for; the latter where a tab has just been heard of
  const me = `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;
  const channel = typeof BroadcastChannel === "function" ? new BroadcastChannel("jet-stories") : null;
  const told = { asked() {}, left() {}, lost() {} };

  let mine = null; // the story that this tab has
  let answer = () => {}; // to what was asked last
  const read = (id) => { try { return JSON.parse(localStorage.getItem(PREFIX + id)); } catch { return null; } };
  const post = (plain) => channel?.postMessage({ ...plain, from: me });
  const leave = (id) => { try { if (read(id)?.tab === me) localStorage.removeItem(PREFIX + id); } catch { /* nothing there */ } };
  const note = () => {
    try { localStorage.setItem(PREFIX + mine, JSON.stringify({ tab: me, at: Date.now() })); } catch { /* tabs still ask */ }
  };
  const taken = (id) => { const lease = read(id); return lease !== null && lease.tab !== me; };
  const lose = () => {
    if (mine === null) return;
    mine = null;
    told.lost();
  };

  channel?.addEventListener("message", ({ data }) => {
    if (data.to && data.to !== me) return;
    if (data.say === "whose" && data.id === mine) {
      post({ say: "mine", id: mine, to: data.from });
      if (data.opens) told.asked();
    } else if (data.say === "mine") answer(data.id);
    else if (data.say === "taken" && data.id === mine) lose();
    else if (data.say === "left") told.left(data.id);
  });
  addEventListener("storage", ({ key }) => { if (mine !== null && key === PREFIX + mine && taken(mine)) lose(); });
  setInterval(() => {
    if (mine === null) return;
    if (taken(mine)) lose(); else note();
  }, BEAT_MS);

  const isElsewhere = (id, opens) => new Promise((resolve) => {
    const lease = read(id);
    const fresh = lease !== null && lease.tab !== me && Date.now() - lease.at < STALE_MS;
    if (!channel) { resolve(fresh); return; }
    const timer = setTimeout(() => resolve(false), fresh ? LONG_ANSWER_MS : ANSWER_MS);
    answer = (found) => { if (found === id) { clearTimeout(timer); resolve(true); } };
    post({ say: "whose", id, opens });
  });

  return {
    watch(asked) { Object.assign(told, asked); },
    // Have a story, if no other tab has it.
    async claim(id) {
      if (await isElsewhere(id, true)) return false;
      tabs.take(id);
      await new Promise((resolve) => { setTimeout(resolve, 20 + 40 * Math.random()); }); // another may take it just now
      return mine === id && !taken(id);
    },
    // Have one that no other tab can know of, or whose tab is gone.
    take(id) {
      mine = id;
      note();
      post({ say: "taken", id });
    },
    // Whether this tab has a story still; another may have taken it for crashed.
    has(id) {
      if (mine !== id) return false;
      if (taken(id)) { lose(); return false; }
      return true;
    },
    release() {
      if (mine === null) return;
      leave(mine);
      post({ say: "left", id: mine });
      mine = null;
    },
    // A tab that only showed a story goes.
    pass(id) { post({ say: "left", id }); },
    // Stories that other tabs have just been writing.
    open: (id) => { const lease = read(id); return lease !== null && lease.tab !== me && Date.now() - lease.at < STALE_MS; },
    forget(id) { try { localStorage.removeItem(PREFIX + id); } catch { /* nothing there */ } },
  };
})();
