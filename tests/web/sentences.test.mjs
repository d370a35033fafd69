import assert from "node:assert/strict";
import test from "node:test";
import { sentencesOf } from "../../assets/web/sentences.js";

const read = (text, from = 0, to = text.length) =>
  sentencesOf(text, from, to).map(([start, end]) => text.slice(start, end));

test("sentences are read one by one, in every script", () => {
  assert.deepEqual(read("“Go!” she said. Then… nothing.\n\n* * *\n\nDawn"), [
    "“Go!”",
    "she said.",
    "Then…",
    "nothing.",
    "Dawn",
  ]);
  assert.deepEqual(read("雨が降った。「そう。」"), ["雨が降った。", "「そう。」"]);
  assert.deepEqual(read("One. Two. Three.", 5, 9), ["Two."]);
});

test("a very long sentence is read in parts, and nothing of it is left out", () => {
  for (const text of ["word ".repeat(200).trim(), "and so on, ".repeat(100).trim(), "x".repeat(1000)]) {
    const parts = read(text);
    assert.ok(parts.every((part) => part.length <= 220));
    assert.equal(parts.join("").replace(/\s/g, ""), text.replace(/\s/g, ""));
  }
});
