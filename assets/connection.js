// What stands between Gradio's own client and the network. That client takes the first call that fails for the end:
// it does nothing any more and loads the page again, under the writer's hands. So no call fails here. One that did
// is answered with nothing, as if the server had had nothing to say, the page finds that and says so; and the line
// to the server, which tells it that this tab is open, is laid again and again until it holds.
const connection = (() => {
  const API = /\/gradio_api\/(queue\/join|queue\/data|run)\b/;
  const [SILENCE_MS, IDLE_MS, STREAM_MS] = [3000, 20_000, 40_000]; // after which it is asked whether anybody is there
  const [ANSWER_MS, RETRY_MS, WATCH_MS] = [3000, 1000, 500];
  const NOTHING = "The server could not answer.";
  const GONE = "There is no connection to the server.";
  const LOGIN = "The server asks you to log in again.";
  const plainFetch = window.fetch.bind(window);

  let root = ""; // where Gradio's own calls go
  let session = ""; // Gradio's name for this tab
  let up = true;
  let refused = false; // a log-in has run out
  let reason = ""; // why the last call had no answer
  let said = ""; // and why the connection was lost
  let heard = performance.now(); // when the server was last heard of
  let asking = null; // whether it is there, while that is being found out
  let line = null; // ends the line to the server
  let laid = false; // it has been before
  let wake = () => {}; // ends the pause before the line is laid again
  const open = new Set(); // what ends the calls under way
  const watchers = { lost() {}, back() {} };

  const within = (milliseconds, call) => {
    const control = new AbortController();
    const timer = setTimeout(() => control.abort(), milliseconds);
    return call(control).finally(() => clearTimeout(timer));
  };
  const pause = (milliseconds) => new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    wake = () => { clearTimeout(timer); resolve(); };
  });
  const lose = (why) => {
    const news = up || why !== said;
    reason = said = why;
    up = false;
    for (const end of [...open]) end();
    line?.abort();
    if (news) watchers.lost(why);
  };
  // Whether the server answers and lets this reader in.
  const ask = () => {
    asking ??= within(ANSWER_MS, ({ signal }) => plainFetch(`${root}/login_check`, { signal, cache: "no-store" }))
      .then(({ status }) => {
        refused = status === 401;
        if (status < 500) heard = performance.now();
        return status < 500 && !refused;
      }, () => { refused = false; return false; })
      .finally(() => { asking = null; });
    return asking;
  };
  const doubt = async () => { if (up && !(await ask())) lose(refused ? LOGIN : GONE); };

  // The line: Gradio's heartbeat, by which the server knows that the tab is open.
  const hold = async () => {
    for (let failures = 0; ; failures += 1) {
      const control = new AbortController();
      line = control;
      try {
        const timer = setTimeout(() => control.abort(), ANSWER_MS);
        const response = await plainFetch(`${root}/heartbeat/${session}`, { signal: control.signal, cache: "no-store" });
        if (!response.ok) throw new Error(`status ${response.status}`);
        const reader = response.body.getReader();
        for (let first = true; ; first = false) {
          const { done } = await reader.read();
          if (done) break;
          clearTimeout(timer);
          heard = performance.now();
          if (!first) continue;
          if (!up && !(await ask())) throw new Error("not let in");
          const wasLost = !up;
          up = true;
          if (wasLost || laid) watchers.back(wasLost);
          laid = true;
          failures = 0;
        }
      } catch { control.abort(); /* and laid again */ }
      const there = await ask();
      if (!there) lose(refused ? LOGIN : GONE);
      await pause(there ? Math.min(50 * 2 ** failures, 5000) : RETRY_MS);
    }
  };
  const begin = (url, found) => {
    if (session || !found) return;
    root = `${url.split("/gradio_api/")[0]}/gradio_api`;
    session = found;
    hold();
  };
  let looked = performance.now();
  setInterval(() => {
    const now = performance.now();
    if (now - looked > 4 * WATCH_MS) heard = Math.max(heard, now - WATCH_MS); // it was this page that slept
    looked = now;
    if (up && now - heard > (open.size ? SILENCE_MS : IDLE_MS)) doubt();
  }, WATCH_MS);
  for (const event of ["online", "offline", "pageshow"]) addEventListener(event, () => { if (up) doubt(); else wake(); });
  document.addEventListener("visibilitychange", () => { if (!up) wake(); });

  const json = (plain) => new Response(JSON.stringify(plain), { status: 200, headers: { "Content-Type": "application/json" } });
  const event = (plain) => new TextEncoder().encode(`data: ${JSON.stringify(plain)}\n\n`);
  const empty = (event_id) => ({ msg: "process_completed", event_id, success: true, output: { data: [], is_generating: false } });

  let last = 0; // of the calls that were never heard
  const joined = new Set(); // events that wait for news from the stream
  let deliver = () => {}; // to a stream that is open
  const unheard = async (path) => {
    if (path !== "queue/join") return json({ data: [], is_generating: false });
    await new Promise((resolve) => { setTimeout(resolve, 30); }); // a stream that ends just now has ended
    const id = `unheard-${(last += 1)}`;
    joined.add(id);
    deliver(id);
    return json({ event_id: id });
  };
  // Whether the line is back: it is tried at once, and not waited for longer than a click may seem to do nothing.
  const waited = async () => {
    wake();
    for (let tries = 0; tries < 10 && !up; tries += 1) await new Promise((resolve) => { setTimeout(resolve, 50); });
    return up;
  };
  // A call. What the server refuses is told in its own words.
  const call = async (url, input, init, path) => {
    begin(url, read(init?.body).session_hash);
    if (!up && !(await waited())) return unheard(path);
    const control = new AbortController();
    const end = () => control.abort();
    open.add(end);
    try {
      const response = await plainFetch(input, { ...init, signal: control.signal });
      const text = await response.text();
      heard = performance.now();
      const plain = read(text);
      if (response.ok && (plain.data || plain.event_id)) {
        if (path === "queue/join") joined.add(plain.event_id);
        return new Response(text, { status: 200, headers: { "Content-Type": "application/json" } });
      }
      const words = plain.detail ?? plain.error;
      if (response.status === 401) { refused = true; lose(LOGIN); }
      else if (typeof words === "string" && words) reason = words;
      else { reason = NOTHING; doubt(); }
    } catch {
      reason = GONE;
      open.delete(end);
      await doubt();
    } finally {
      open.delete(end);
    }
    return unheard(path);
  };
  const read = (text) => { try { return JSON.parse(text) ?? {}; } catch { return {}; } };

  // The stream with what the events bring. When it breaks, whatever still waits for news is told that there is none.
  const follow = (input) => {
    const control = new AbortController();
    let [heardHere, over, watch, sink] = [performance.now(), false, 0, null];
    const stop = () => {
      if (over) return false;
      over = true;
      open.delete(end);
      clearInterval(watch);
      control.abort();
      deliver = () => {};
      return true;
    };
    const end = () => {
      if (!stop()) return;
      for (const id of joined) sink.enqueue(event(empty(id)));
      joined.clear();
      sink.enqueue(event({ msg: "close_stream" }));
      sink.close();
    };
    // A row of the stream as the client is to have it.
    const passed = (row) => {
      const failed = row.includes('"success":false');
      if (!failed && !row.includes('"process_completed"')) return row;
      const news = read(row.slice("data:".length));
      if (failed && news.success === false) {
        reason = news.output?.error ?? news.message ?? NOTHING;
        if (!news.event_id) return null; // all of them
        joined.delete(news.event_id);
        return `data: ${JSON.stringify(empty(news.event_id))}`;
      }
      if (news.msg === "process_completed") joined.delete(news.event_id);
      return row;
    };
    const pump = async () => {
      const response = await plainFetch(new Request(input, { signal: control.signal }));
      if (!response.ok) throw new Error(`status ${response.status}`);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; ;) {
        const { done, value } = await reader.read();
        if (over) return;
        if (done) break;
        heard = heardHere = performance.now();
        const rows = (rest + value).split("\n");
        rest = rows.pop();
        const kept = rows.map(passed);
        if (kept.includes(null)) break;
        if (rows.length) sink.enqueue(new TextEncoder().encode(`${kept.join("\n")}\n`));
        if (rows.some((row) => row.length < 100 && row.includes('"close_stream"')) && stop()) { sink.close(); return; }
      }
      await broken(); // before its time
    };
    const broken = async () => { await doubt(); end(); };
    const body = new ReadableStream({
      start(controller) {
        sink = controller;
        open.add(end);
        const unsent = [...joined].filter((id) => id.startsWith("unheard-"));
        if (unsent.length === joined.size) { setTimeout(end); return; }
        deliver = (id) => { joined.delete(id); sink.enqueue(event(empty(id))); };
        unsent.forEach(deliver);
        watch = setInterval(() => { if (performance.now() - heardHere > STREAM_MS) end(); }, 1000);
        pump().catch(() => { if (!over) broken(); });
      },
      cancel: stop,
    });
    input.signal?.addEventListener("abort", stop);
    return new Response(body, { status: 200, headers: { "Content-Type": "text/event-stream" } });
  };

  window.fetch = (input, init) => {
    const url = typeof input === "string" ? input : input.url ?? String(input);
    const [, path] = API.exec(url.split("?")[0]) ?? [];
    if (!path) return plainFetch(input, init);
    return path === "queue/data" ? Promise.resolve(follow(input)) : call(url, input, init, path);
  };

  return {
    lost: () => !up,
    // In a sentence, why the last call had no answer.
    reason: () => reason || GONE,
    doubt,
    watch(asked) { Object.assign(watchers, asked); },
  };
})();
