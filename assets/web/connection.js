// Stands between Gradio's client and the network.
//
// Gradio's client takes the first call that fails for the end: it stops, and reloads the page under the writer's
// hands. So no call fails here. A call without an answer gets an empty one, which the page notices and tells; and the
// heartbeat, by which the server knows that this tab is open, is opened again and again until it holds.

import {
  emptyResult,
  encodeEvent,
  endsStream,
  jsonResponse,
  parseObject,
  readRow,
  splitRows,
} from "./event_stream.js";

const GRADIO_CALL = /\/gradio_api\/(queue\/join|queue\/data|run)\b/;
// Silence after which the page asks whether the server is there: while a call is open, otherwise, and in a stream.
const [SILENCE_MS, IDLE_MS, STREAM_MS] = [3000, 20_000, 40_000];
const [ANSWER_MS, RETRY_MS, WATCH_MS] = [3000, 1000, 500];
const NOTHING = "The server could not answer.";
const GONE = "There is no connection to the server.";
const LOGIN = "The server asks you to log in again.";

const plainFetch = globalThis.fetch?.bind(globalThis);

let root = ""; // where Gradio's own calls go
let session = ""; // Gradio's name for this tab
let up = true;
let refused = false; // the login has expired
let lastReason = ""; // why the last call had no answer
let lossReason = ""; // why the connection was lost
let heard = 0; // when the server was last heard of
/** @type {Promise<boolean> | null} */
let probe = null;
/** @type {AbortController | null} */
let heartbeat = null;
let wasOpened = false; // the heartbeat, before
let wake = () => {}; // ends the pause before the heartbeat is opened again
/** @type {Set<() => void>} */
const openCalls = new Set(); // functions that end them
const watchers = {
  /** @param {string} _why */ lost(_why) {},
  /** @param {boolean} _wasLost */ back(_wasLost) {},
};

/** @param {number} milliseconds @returns {Promise<void>} */
const sleep = (milliseconds) =>
  new Promise((resolve) => {
    setTimeout(resolve, milliseconds);
  });
/** Sleeps until woken at the latest. @param {number} milliseconds @returns {Promise<void>} */
const pause = (milliseconds) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    wake = () => {
      clearTimeout(timer);
      resolve();
    };
  });

/** @param {string} why */
function lose(why) {
  const isNews = up || why !== lossReason;
  lastReason = lossReason = why;
  up = false;
  for (const end of [...openCalls]) end();
  heartbeat?.abort();
  if (isNews) watchers.lost(why);
}

/** Asks whether the server answers and lets this reader in. */
async function askServer() {
  const control = new AbortController();
  const timer = setTimeout(() => control.abort(), ANSWER_MS);
  try {
    const { status } = await plainFetch(`${root}/login_check`, { signal: control.signal, cache: "no-store" });
    refused = status === 401;
    if (status < 500) heard = performance.now();
    return status < 500 && !refused;
  } catch {
    refused = false;
    return false;
  } finally {
    clearTimeout(timer);
    probe = null;
  }
}
/** The same; who asks meanwhile gets the same answer. */
function isServerThere() {
  probe ??= askServer();
  return probe;
}

/** Checks the connection, and says if it is lost. */
async function check() {
  if (up && !(await isServerThere())) lose(refused ? LOGIN : GONE);
}

/** Reads the heartbeat until it ends. Raises when it breaks. */
async function readHeartbeat() {
  const control = new AbortController();
  heartbeat = control;
  try {
    const timer = setTimeout(() => control.abort(), ANSWER_MS);
    const options = /** @type {RequestInit} */ ({ signal: control.signal, cache: "no-store" });
    const response = await plainFetch(`${root}/heartbeat/${session}`, options);
    if (!response.ok || !response.body) throw new Error(`status ${response.status}`);
    const reader = response.body.getReader();
    for (let first = true; ; first = false) {
      const { done } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      heard = performance.now();
      if (!first) continue;
      if (!up && !(await isServerThere())) throw new Error("not let in");
      const wasLost = !up;
      up = true;
      if (wasLost || wasOpened) watchers.back(wasLost);
      wasOpened = true;
      failures = 0;
    }
  } finally {
    control.abort();
  }
}
let failures = 0; // of the heartbeat since it held last

async function keepHeartbeat() {
  for (; ; failures += 1) {
    try {
      await readHeartbeat();
    } catch {
      /* opened again below */
    }
    const there = await isServerThere();
    if (!there) lose(refused ? LOGIN : GONE);
    await pause(there ? Math.min(50 * 2 ** failures, 5000) : RETRY_MS);
  }
}

/** @param {string} url @param {string | undefined} found the session's name, once a call carries it */
function begin(url, found) {
  if (session || !found) return;
  root = `${url.split("/gradio_api/")[0]}/gradio_api`;
  session = found;
  keepHeartbeat();
}

let unheardCalls = 0;
/** @type {Set<string>} */
const joined = new Set(); // events that wait for news from the stream
/** @type {(id: string) => void} */
let deliver = () => {}; // to an open stream

/** Answers a call that the server has not heard, as if there were nothing to say. @param {string} path */
async function answerUnheard(path) {
  if (path !== "queue/join") return jsonResponse({ data: [], is_generating: false });
  await sleep(30); // a stream that ends just now has ended
  unheardCalls += 1;
  const id = `unheard-${unheardCalls}`;
  joined.add(id);
  deliver(id);
  return jsonResponse({ event_id: id });
}

/** Waits for the connection, but no longer than a click may seem to do nothing. */
async function waitUntilUp() {
  wake();
  for (let tries = 0; tries < 10 && !up; tries += 1) await sleep(50);
  return up;
}

/** @param {Response} response @param {Record<string, any>} plain */
function noteRefusal(response, plain) {
  const words = plain.detail ?? plain.error;
  if (response.status === 401) {
    refused = true;
    lose(LOGIN);
  } else if (typeof words === "string" && words) lastReason = words;
  else {
    lastReason = NOTHING;
    check();
  }
}

/**
 * Makes a call. The server's own words tell why it refuses one.
 * @param {string} url
 * @param {RequestInfo | URL} input
 * @param {RequestInit | undefined} init
 * @param {string} path
 */
async function call(url, input, init, path) {
  begin(url, parseObject(init?.body).session_hash);
  if (!up && !(await waitUntilUp())) return answerUnheard(path);
  const control = new AbortController();
  const end = () => control.abort();
  openCalls.add(end);
  try {
    const response = await plainFetch(input, { ...init, signal: control.signal });
    const text = await response.text();
    heard = performance.now();
    const plain = parseObject(text);
    if (response.ok && (plain.data || plain.event_id)) {
      if (path === "queue/join") joined.add(plain.event_id);
      return new Response(text, { status: 200, headers: { "Content-Type": "application/json" } });
    }
    noteRefusal(response, plain);
  } catch {
    lastReason = GONE;
    openCalls.delete(end);
    await check();
  } finally {
    openCalls.delete(end);
  }
  return answerUnheard(path);
}

/**
 * Follows the stream that brings the events' news. When it breaks, events that still wait end with nothing.
 * @param {any} input
 */
function follow(input) {
  const control = new AbortController();
  let heardHere = performance.now();
  let over = false;
  let watch = 0;
  /** @type {ReadableStreamDefaultController<Uint8Array>} */
  let sink;
  const stop = () => {
    if (over) return false;
    over = true;
    openCalls.delete(end);
    clearInterval(watch);
    control.abort();
    deliver = () => {};
    return true;
  };
  const end = () => {
    if (!stop()) return;
    for (const id of joined) sink.enqueue(encodeEvent(emptyResult(id)));
    joined.clear();
    sink.enqueue(encodeEvent({ msg: "close_stream" }));
    sink.close();
  };
  const breakOff = async () => {
    await check();
    end();
  };
  /** Passes rows on, and returns whether more may come. @param {string[]} rows */
  const pass = (rows) => {
    const read = rows.map(readRow);
    for (const { completed, failed } of read) {
      if (failed !== undefined) lastReason = failed || NOTHING;
      if (completed) joined.delete(completed);
    }
    if (read.some(({ fatal }) => fatal)) return false;
    if (rows.length) sink.enqueue(new TextEncoder().encode(`${read.map(({ row }) => row).join("\n")}\n`));
    return true;
  };
  const pump = async () => {
    const response = await plainFetch(new Request(input, { signal: control.signal }));
    if (!response.ok || !response.body) throw new Error(`status ${response.status}`);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ; ) {
      const { done, value } = await reader.read();
      if (over) return;
      if (done) break;
      heard = heardHere = performance.now();
      const split = splitRows(rest + value);
      rest = split.rest;
      if (!pass(split.rows)) break;
      if (split.rows.some(endsStream) && stop()) {
        sink.close();
        return;
      }
    }
    await breakOff();
  };
  const body = new ReadableStream({
    start(controller) {
      sink = controller;
      openCalls.add(end);
      const unheard = [...joined].filter((id) => id.startsWith("unheard-"));
      if (unheard.length === joined.size) {
        setTimeout(end);
        return;
      }
      deliver = (id) => {
        joined.delete(id);
        sink.enqueue(encodeEvent(emptyResult(id)));
      };
      for (const id of unheard) deliver(id);
      watch = setInterval(() => {
        if (performance.now() - heardHere > STREAM_MS) end();
      }, 1000);
      pump().catch(() => {
        if (!over) breakOff();
      });
    },
    cancel() {
      stop();
    },
  });
  input.signal?.addEventListener("abort", stop);
  return new Response(body, { status: 200, headers: { "Content-Type": "text/event-stream" } });
}

/** Puts this module between Gradio's client and the network. */
export function install() {
  globalThis.fetch = (/** @type {any} */ input, init) => {
    const url = typeof input === "string" ? input : (input.url ?? String(input));
    const [, path] = GRADIO_CALL.exec(url.split("?")[0]) ?? [];
    if (!path) return plainFetch(input, init);
    return path === "queue/data" ? Promise.resolve(follow(input)) : call(url, input, init, path);
  };
  let looked = performance.now();
  heard = looked;
  setInterval(() => {
    const now = performance.now();
    if (now - looked > 4 * WATCH_MS) heard = Math.max(heard, now - WATCH_MS); // this page slept, not the server
    looked = now;
    if (up && now - heard > (openCalls.size ? SILENCE_MS : IDLE_MS)) check();
  }, WATCH_MS);
  for (const event of ["online", "offline", "pageshow"]) {
    addEventListener(event, () => {
      if (up) check();
      else wake();
    });
  }
  document.addEventListener("visibilitychange", () => {
    if (!up) wake();
  });
}

/** Tells whether there is no connection now. */
export const isLost = () => !up;
/** Says in a sentence why the last call had no answer. */
export const reason = () => lastReason || GONE;
/** Names what to call when the connection is lost and when it is back. @param {Partial<typeof watchers>} asked */
export function watch(asked) {
  Object.assign(watchers, asked);
}
