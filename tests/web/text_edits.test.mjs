import assert from "node:assert/strict";
import test from "node:test";
import { applyEdit, findEdit, moveOffset, overlayEdit } from "../../assets/web/text_edits.js";
import { randomText, seeded } from "./random.mjs";

test("an edit leads from one text to the other, whatever they are", () => {
  const random = seeded(1);
  for (let round = 0; round < 2000; round += 1) {
    const [before, now] = [randomText(random), randomText(random)];
    const cursor = Math.floor(random() * (now.length + 1));
    const edit = findEdit(before, now, cursor);
    assert.equal(applyEdit(before, edit), now);
    assert.equal(edit.of, before.length);
    assert.ok(0 <= edit.from && edit.from <= edit.to && edit.to <= before.length, JSON.stringify(edit));
  }
});

test("an edit is the smallest: what it exchanges has no shared beginning or end", () => {
  const random = seeded(2);
  for (let round = 0; round < 2000; round += 1) {
    const [before, now] = [randomText(random), randomText(random)];
    const { from, to, text } = findEdit(before, now);
    const gone = before.slice(from, to);
    if (!gone || !text) continue;
    assert.notEqual(gone[0], text[0]);
    assert.notEqual(gone.at(-1), text.at(-1));
  }
});

test("of several answers, the one that ends at the cursor is taken", () => {
  assert.deepEqual(findEdit("b c", "b a c", 3), { of: 3, from: 1, to: 1, text: " a" });
  assert.deepEqual(findEdit("aaa", "aaaa", 1), { of: 3, from: 0, to: 0, text: "a" });
  assert.deepEqual(findEdit("aaa", "aa", 1), { of: 3, from: 1, to: 2, text: "" });
});

test("a text that is the same has an empty edit", () => {
  assert.deepEqual(findEdit("same", "same"), { of: 4, from: 4, to: 4, text: "" });
  assert.deepEqual(findEdit("", ""), { of: 0, from: 0, to: 0, text: "" });
});

test("a megabyte is compared in a few steps", () => {
  const half = "word ".repeat(100_000);
  assert.deepEqual(findEdit(half + half, `${half}new ${half}`, half.length + 4).text, "new ");
});

test("an offset stays with its words", () => {
  const edit = { from: 2, to: 5, text: "xy" };
  assert.deepEqual(
    [0, 2, 3, 4, 5, 9].map((at) => moveOffset(at, edit)),
    [0, 2, 4, 4, 4, 8],
  );
});

test("an offset in words that are not touched still points at them", () => {
  const random = seeded(3);
  for (let round = 0; round < 2000; round += 1) {
    const [before, now] = [randomText(random), randomText(random)];
    const edit = findEdit(before, now);
    for (let at = 0; at <= before.length; at += 1) {
      const moved = moveOffset(at, edit);
      if (at <= edit.from) assert.equal(now.slice(0, moved), before.slice(0, at));
      else if (at >= edit.to) assert.equal(now.slice(moved), before.slice(at));
      else assert.equal(moved, edit.from + edit.text.length);
    }
  }
});

test("typing at the caret goes to where the caret is now", () => {
  const typed = findEdit("The sea", "The sea, he said", 16);
  const change = findEdit("The sea", "The sea was calm");
  const merged = overlayEdit("The sea was calm", 16, typed, 7, change);
  assert.deepEqual(merged, { text: "The sea was calm, he said", at: 25 });
});

test("typing elsewhere moves along with its words", () => {
  const typed = findEdit("The sea", "The wide sea", 9);
  const change = findEdit("The sea", "Now: The sea was calm");
  const merged = overlayEdit("Now: The sea was calm", 21, typed, 7, {
    ...change,
    from: 0,
    to: 0,
    text: "Now: ",
  });
  assert.deepEqual(merged, { text: "Now: The wide sea was calm", at: 14 });
});

test("what was typed is never lost, whatever came meanwhile", () => {
  const random = seeded(4);
  for (let round = 0; round < 2000; round += 1) {
    const [base, mine, theirs] = [randomText(random), randomText(random), randomText(random)];
    const typed = findEdit(base, mine);
    const at = Math.floor(random() * (theirs.length + 1));
    const merged = overlayEdit(
      theirs,
      at,
      typed,
      Math.floor(random() * (base.length + 1)),
      findEdit(base, theirs),
    );
    assert.ok(merged.text.includes(typed.text));
    assert.equal(merged.text.slice(merged.at - typed.text.length, merged.at), typed.text);
  }
});
