import assert from "node:assert/strict";
import test from "node:test";
import { inWords, pollDelay, progressOf, progressWords, timeInWords } from "../../assets/web/model_state.js";

const STATE = {
  stage: "downloading",
  title: "Jet-Nemotron 2B in int4",
  done: 1_000_000_000,
  total: 4_000_000_000,
  rate: 50_000_000,
  stalled: false,
  message: "Downloading",
  active: true,
  canCancel: true,
  measuring: false,
  suggestion: "",
  list: "",
};

test("a download tells bytes, rate and the time that is left", () => {
  assert.equal(
    progressWords(STATE),
    "Downloading Jet-Nemotron 2B in int4: 1.00 GB of 4.00 GB, 50 MB/s, 60 s left",
  );
  assert.equal(
    progressWords({ ...STATE, rate: null, done: 0 }),
    "Downloading Jet-Nemotron 2B in int4: 0.0 MB of 4.00 GB",
  );
  const stalled = progressWords({ ...STATE, stalled: true });
  assert.match(stalled, /1\.00 GB of 4\.00 GB, waiting for the network$/);
});

test("other steps say what they do, and the end is the server's message", () => {
  const quantizing = {
    ...STATE,
    stage: "quantizing",
    message: "Quantizing to int4, once",
    done: 50,
    total: 200,
  };
  assert.equal(progressWords(quantizing), "Jet-Nemotron 2B in int4: Quantizing to int4, once (25 %)");
  assert.equal(
    progressWords({ ...STATE, stage: "loading", total: 0, message: "Loading" }),
    "Jet-Nemotron 2B in int4: Loading…",
  );
  assert.equal(progressWords({ ...STATE, stage: "failed", active: false, message: "No." }), "No.");
});

test("the part done is between 0 and 1, and unknown without a total", () => {
  assert.equal(progressOf(STATE), 0.25);
  assert.equal(progressOf({ ...STATE, done: 9e9 }), 1);
  assert.equal(progressOf({ ...STATE, total: 0 }), null);
  assert.equal(progressOf({ ...STATE, active: false }), null);
});

test("a change is followed until it ends, less often while it is not watched", () => {
  const [watched, unwatched] = [pollDelay(STATE, true), pollDelay(STATE, false)];
  assert.ok(watched !== null && unwatched !== null && watched < unwatched);
  const idle = { ...STATE, active: false };
  const [slow, quick] = [pollDelay(idle, true), pollDelay({ ...idle, measuring: true }, true)];
  assert.ok(slow !== null && quick !== null && quick < slow, "another tab may begin a change");
  assert.equal(pollDelay(idle, false), null);
  assert.equal(pollDelay({ ...idle, measuring: true }, false), null);
});

test("sizes and durations", () => {
  assert.deepEqual([1_234_000, 64_000_000, 3_930_000_000].map(inWords), ["1.2 MB", "64 MB", "3.93 GB"]);
  assert.deepEqual([0, 40, 89, 90, 3600, 5400, 3900].map(timeInWords), [
    "1 s",
    "40 s",
    "89 s",
    "2 min",
    "60 min",
    "1 h 30 min",
    "65 min",
  ]);
});
