// Which tab has which story. Two tabs that write one story would overwrite each other: so one has it, and the others
// go on with copies.
//
// Tabs ask each other, and the owner of a story leaves word in the browser's storage every second: of a tab that has
// crashed only that is left, and it soon counts for nothing. Web Locks would do, but need a secure context.

import { openStorage } from "./browser_storage.js";

const [BEAT_MS, STALE_MS] = [1000, 4000];
const [ANSWER_MS, LONG_ANSWER_MS] = [200, 1500]; // waited for; the latter where a tab has just been heard of

const storage = openStorage("localStorage");
const thisTab = `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;
/** @type {BroadcastChannel | null} */
let channel = null;
const watchers = {
  asked() {},
  /** @param {string} _id */
  left(_id) {},
  lost() {},
};

/** @type {string | null} */
let owned = null; // the story that this tab has
/** @type {(id: string) => void} */
let answer = () => {}; // to what was asked last

/** @param {string} id */
const keyOf = (id) => `tab:${id}`;
/** @param {string} id @returns {{ tab: string, at: number } | null} */
const leaseOf = (id) => {
  const lease = storage.readObject(keyOf(id));
  return lease.tab ? /** @type {any} */ (lease) : null;
};
/** @param {object} plain */
const post = (plain) => channel?.postMessage({ ...plain, from: thisTab });
/** Tells whether another tab has a story. @param {string} id */
const isTaken = (id) => {
  const lease = leaseOf(id);
  return lease !== null && lease.tab !== thisTab;
};

function renew() {
  if (owned !== null) storage.tryWrite(keyOf(owned), JSON.stringify({ tab: thisTab, at: Date.now() }));
}
function lose() {
  if (owned === null) return;
  owned = null;
  watchers.lost();
}

/** @param {MessageEvent} event */
function onMessage({ data }) {
  if (data.to && data.to !== thisTab) return;
  if (data.say === "whose" && data.id === owned) {
    post({ say: "mine", id: owned, to: data.from });
    if (data.opens) watchers.asked();
  } else if (data.say === "mine") answer(data.id);
  else if (data.say === "taken" && data.id === owned) lose();
  else if (data.say === "left") watchers.left(data.id);
}

/** @param {string} id @returns {Promise<boolean>} */
function isElsewhere(id) {
  const fresh = isOpenElsewhere(id);
  if (!channel) return Promise.resolve(fresh);
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve(false), fresh ? LONG_ANSWER_MS : ANSWER_MS);
    answer = (found) => {
      if (found !== id) return;
      clearTimeout(timer);
      resolve(true);
    };
    post({ say: "whose", id, opens: true });
  });
}

/** Starts answering other tabs. */
export function install() {
  channel = typeof BroadcastChannel === "function" ? new BroadcastChannel("jet-stories") : null;
  channel?.addEventListener("message", onMessage);
  addEventListener("storage", ({ key }) => {
    if (owned !== null && key === storage.keyOf(keyOf(owned)) && isTaken(owned)) lose();
  });
  setInterval(() => {
    if (owned === null) return;
    if (isTaken(owned)) lose();
    else renew();
  }, BEAT_MS);
}

/** Names what to call when another tab asks for this tab's story, has left one, or has taken it. @param {Partial<typeof watchers>} asked */
export function watch(asked) {
  Object.assign(watchers, asked);
}

/** Takes a story if no other tab has it, and returns whether. @param {string} id */
export async function claim(id) {
  if (await isElsewhere(id)) return false;
  take(id);
  await new Promise((resolve) => {
    setTimeout(resolve, 20 + 40 * Math.random()); // another tab may take it just now
  });
  return owned === id && !isTaken(id);
}

/** Takes a story that no other tab can know of, or whose tab is gone. @param {string} id */
export function take(id) {
  owned = id;
  renew();
  post({ say: "taken", id });
}

/** Tells whether this tab still has a story; another may have taken it for crashed. @param {string} id */
export function has(id) {
  if (owned !== id) return false;
  if (!isTaken(id)) return true;
  lose();
  return false;
}

/** Gives this tab's story up. */
export function release() {
  if (owned === null) return;
  if (leaseOf(owned)?.tab === thisTab) storage.remove(keyOf(owned));
  post({ say: "left", id: owned });
  owned = null;
}

/** Says that a tab that only showed a story goes. @param {string} id */
export function leave(id) {
  post({ say: "left", id });
}

/** Tells whether another tab has just been writing a story. @param {string} id */
export function isOpenElsewhere(id) {
  const lease = leaseOf(id);
  return lease !== null && lease.tab !== thisTab && Date.now() - lease.at < STALE_MS;
}

/** Removes the word of a story that is removed. @param {string} id */
export function forget(id) {
  storage.remove(keyOf(id));
}
