import assert from "node:assert/strict";
import test from "node:test";
import { browserSecret, openStorage } from "../../assets/web/browser_storage.js";

/** Puts a storage in the place of the browser's. */
function use(storage) {
  Object.defineProperty(globalThis, "localStorage", { configurable: true, get: storage });
  return openStorage("localStorage");
}
function memory(kept = {}) {
  const entries = new Map(Object.entries(kept));
  return {
    entries,
    getItem: (key) => entries.get(key) ?? null,
    setItem: (key, text) => entries.set(key, text),
    removeItem: (key) => entries.delete(key),
  };
}

test("entries have the page's prefix, as they have had from the beginning", () => {
  const kept = memory({ "jet-stories:draft:a": "Once" });
  const storage = use(() => kept);
  assert.equal(storage.read("draft:a"), "Once");
  storage.write("draft:b", "Twice");
  assert.equal(kept.entries.get("jet-stories:draft:b"), "Twice");
  assert.equal(storage.keyOf("tab:a"), "jet-stories:tab:a");
  storage.remove("draft:a");
  assert.deepEqual([...kept.entries.keys()], ["jet-stories:draft:b"]);
});

test("what is missing or damaged is an empty object", () => {
  for (const text of [undefined, "", "{", "null", "[1]", '"text"', "7"]) {
    const storage = use(() => memory(text === undefined ? {} : { "jet-stories:index": text }));
    assert.deepEqual(storage.readObject("index"), {}, text);
  }
  const storage = use(() => memory({ "jet-stories:index": '{"a":{"title":"T"}}' }));
  assert.deepEqual(storage.readObject("index"), { a: { title: "T" } });
});

test("a forbidden storage reads as empty, and says that it keeps nothing", () => {
  const storage = use(() => {
    throw new Error("SecurityError");
  });
  assert.equal(storage.read("index"), null);
  assert.deepEqual(storage.readObject("index"), {});
  assert.equal(storage.tryWrite("index", "{}"), false);
  assert.throws(() => storage.write("index", "{}"), /SecurityError/);
  storage.remove("index");
});

test("a full storage keeps what it had", () => {
  const kept = memory({ "jet-stories:index": "{}" });
  kept.setItem = () => {
    throw new Error("QuotaExceededError");
  };
  const storage = use(() => kept);
  assert.equal(storage.tryWrite("index", "new"), false);
  assert.equal(storage.read("index"), "{}");
});

test("a browser has one secret, which no visit changes and no forbidden storage keeps from it", () => {
  const kept = memory();
  use(() => kept);
  const secret = browserSecret();
  assert.match(secret, /^[0-9a-f]{32}$/);
  assert.equal(kept.entries.get("jet-stories:secret"), secret);
  use(() => {
    throw new Error("SecurityError");
  });
  assert.equal(browserSecret(), secret);
});
