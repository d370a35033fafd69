import assert from "node:assert/strict";
import test from "node:test";
import { applyEdit, findEdit } from "../../assets/web/text_edits.js";
import { UndoSteps } from "../../assets/web/undo_steps.js";
import { randomText, seeded } from "./random.mjs";

/** Types a text key by key behind what is there. */
function type(steps, before, added, inputType = "insertText") {
  let now = before;
  for (const letter of added) {
    const next = now + letter;
    steps.note(inputType, now, next, next.length);
    now = next;
  }
  return now;
}

/** The texts after each step. */
function versions({ origin, steps }) {
  let text = origin;
  return steps.map((step) => {
    text = applyEdit(text, step);
    return text;
  });
}

test("a step ends with a sentence", () => {
  const steps = new UndoSteps();
  type(steps, "", "He came. She went! “Why?” he said");
  assert.deepEqual(versions(steps.take(null)), [
    "He came. ",
    "He came. She went! ",
    "He came. She went! “Why?” ",
  ]);
});

test("a step ends with a line, in other scripts, too", () => {
  const steps = new UndoSteps();
  type(steps, "", "One\n他来了。她");
  assert.deepEqual(versions(steps.take(null)), ["One\n", "One\n他来了。"]);
});

test("a paste is a step of its own", () => {
  const steps = new UndoSteps();
  const typed = type(steps, "", "ab");
  steps.note("insertFromPaste", typed, "abPASTED", 8);
  type(steps, "abPASTED", "cd");
  assert.deepEqual(versions(steps.take("abPASTEDcd")), ["ab", "abPASTED"]);
});

test("deleting is another step than typing", () => {
  const steps = new UndoSteps();
  const typed = type(steps, "", "abcd");
  steps.note("deleteContentBackward", typed, "abc", 3);
  steps.note("deleteContentBackward", "abc", "ab", 2);
  assert.deepEqual(versions(steps.take("ab")), ["abcd"]);
});

test("a caret that went elsewhere begins a step", () => {
  const steps = new UndoSteps();
  const typed = type(steps, "", "end");
  steps.note("insertText", typed, "xend", 1);
  steps.note("insertText", "xend", "xyend", 2);
  assert.deepEqual(versions(steps.take("xyend")), ["end"]);
});

test("a long run without a sentence's end is cut at a blank, and at last anywhere", () => {
  const steps = new UndoSteps();
  type(steps, "", `${"a".repeat(130)} ${"b".repeat(310)}`);
  assert.deepEqual(
    versions(steps.take(null)).map((text) => text.length),
    [131, 431],
  );
});

test("no step ends while an input method composes", () => {
  const steps = new UndoSteps();
  steps.note("insertCompositionText", "", "a。", 2, true);
  assert.deepEqual(steps.take(null).steps, []);
});

test("the steps taken start where the text sent before ended", () => {
  const steps = new UndoSteps();
  type(steps, "", "One. ");
  assert.equal(steps.take("One. ").origin, "");
  type(steps, "One. ", "Two. ");
  const taken = steps.take("One. Two. ");
  assert.equal(taken.origin, "One. ");
  assert.deepEqual(versions(taken), ["One. Two. "]);
});

test("whatever is typed, the steps lead from text to text that stood in the box", () => {
  const random = seeded(5);
  const kinds = ["insertText", "insertFromPaste", "deleteContentBackward", "insertLineBreak"];
  for (let round = 0; round < 300; round += 1) {
    const steps = new UndoSteps();
    const seen = new Set();
    let now = randomText(random);
    const first = now;
    for (let key = 0; key < 10; key += 1) {
      const next = randomText(random);
      seen.add(now).add(next);
      steps.note(kinds[Math.floor(random() * kinds.length)], now, next, findEdit(now, next).from);
      now = next;
    }
    const taken = steps.take(now);
    assert.equal(taken.origin, first);
    for (const version of versions(taken)) assert.ok(seen.has(version), version);
  }
});

test("Undo points at where something was typed, though other places read the same", () => {
  const edit = findEdit("a b b b", "a b b");
  assert.equal(edit.from, 5);
  const steps = new UndoSteps();
  steps.restart("a b b");
  steps.note("insertFromPaste", "a b b", "a b b b", 5); // at 3
  assert.equal(steps.placeOf("a b b b", "a b b", edit), 3);
  assert.equal(new UndoSteps().placeOf("a b b b", "a b b", edit), 5); // nothing is known of that place
});
