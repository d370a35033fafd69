import assert from "node:assert/strict";
import test from "node:test";
import { lastAtMost, shiftMarks, withoutBlanks } from "../../assets/web/mark_ranges.js";
import { seeded } from "./random.mjs";

/** The level of each unit, or -1: the plain form that the list of ranges stands for. */
function paint(marks, length) {
  const levels = Array(length).fill(-1);
  for (let index = 0; index < marks.length; index += 3)
    levels.fill(marks[index + 2], marks[index], marks[index + 1]);
  return levels;
}

function randomMarks(random, length) {
  const marks = [];
  for (let at = 0; ; ) {
    const start = at + Math.floor(random() * 3);
    const end = start + 1 + Math.floor(random() * 3);
    if (end > length) return marks;
    marks.push(start, end, Math.floor(random() * 3));
    at = end;
  }
}

test("marks move along with their words, and new words get none or the model's", () => {
  const random = seeded(6);
  for (let round = 0; round < 3000; round += 1) {
    const length = Math.floor(random() * 20);
    const marks = randomMarks(random, length);
    const at = Math.floor(random() * (length + 1));
    const removed = Math.floor(random() * (length - at + 1));
    const added = Math.floor(random() * 4);
    const byModel = random() < 0.5;
    const before = paint(marks, length);
    const wanted = [
      ...before.slice(0, at),
      ...Array(added).fill(byModel ? 0 : -1),
      ...before.slice(at + removed),
    ];
    assert.deepEqual(paint(shiftMarks(marks, at, removed, added, byModel), wanted.length), wanted);
  }
});

test("ranges stay in order, and none is empty", () => {
  const random = seeded(7);
  for (let round = 0; round < 1000; round += 1) {
    const marks = randomMarks(random, 20);
    const shifted = shiftMarks(marks, Math.floor(random() * 15), Math.floor(random() * 5), 2, true);
    for (let index = 0; index < shifted.length; index += 3) {
      assert.ok(shifted[index] < shifted[index + 1]);
      if (index) assert.ok(shifted[index - 2] <= shifted[index]);
    }
  }
});

test("words of the model that follow each other are one range", () => {
  assert.deepEqual(shiftMarks([0, 4, 0], 4, 0, 3, true), [0, 7, 0]);
  assert.deepEqual(shiftMarks([], 2, 0, 3, true), [2, 5, 0]);
  assert.deepEqual(shiftMarks([0, 6, 1], 2, 0, 1, false), [0, 2, 1, 3, 7, 1]);
});

test("the last value that is small enough is found", () => {
  const values = [0, 3, 3, 8];
  const find = (value) => lastAtMost(values.length, (index) => values[index], value);
  assert.deepEqual([-1, 0, 2, 3, 7, 8, 99].map(find), [0, 0, 0, 2, 2, 3, 3]);
  assert.equal(
    lastAtMost(0, () => 0, 5),
    0,
  );
});

test("a mark covers what can be seen of a line", () => {
  const line = " one two ";
  assert.deepEqual(withoutBlanks(line, -5, 99), [1, 8]);
  assert.deepEqual(withoutBlanks(line, 4, 6), [5, 6]);
  assert.deepEqual(withoutBlanks(line, 8, 9), [9, 9]);
  assert.deepEqual(withoutBlanks("", -1, 0), [0, 0]);
  assert.deepEqual(withoutBlanks(line, 20, 30), [20, 20]);
});
