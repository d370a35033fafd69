import assert from "node:assert/strict";
import test from "node:test";
import { latestFirst, nameOf, newStoryId, withStory } from "../../assets/web/story_index.js";

const NOW = { title: "Title", text: "x".repeat(100), saved: 9, copyOf: null };

test("a story is put into the list, with the beginning of its text", () => {
  const before = { a: { title: "A", preview: "a", saved: 1 } };
  const index = withStory(before, "b", NOW);
  assert.deepEqual(index, { ...before, b: { title: "Title", preview: "x".repeat(80), saved: 9 } });
  assert.deepEqual(Object.keys(before), ["a"]); // the list given stays as it is
});

test("copies are numbered in the order in which they are made", () => {
  let index = withStory({}, "a", NOW);
  index = withStory(index, "b", { ...NOW, copyOf: "a" });
  index = withStory(index, "c", { ...NOW, copyOf: "a" });
  assert.deepEqual([index.a.copy, index.b.copy, index.c.copy], [undefined, 1, 2]);
  const again = withStory(index, "b", { ...NOW, title: "New", copyOf: "a" });
  assert.deepEqual([again.b.from, again.b.copy, again.b.title], ["a", 1, "New"]);
});

test("a copy of a list that an older page kept counts as the first", () => {
  const index = withStory({ b: { from: "a", saved: 1 } }, "c", { ...NOW, copyOf: "a" });
  assert.equal(index.c.copy, 2);
});

test("the latest story comes first, and one of unknown date last", () => {
  const index = { a: { saved: 1 }, b: { saved: 3 }, c: {}, d: { saved: 2 } };
  assert.deepEqual(
    latestFirst(index).map(([id]) => id),
    ["b", "d", "a", "c"],
  );
});

test("a story has a name, whatever is known of it", () => {
  assert.equal(nameOf({ title: "T", preview: "p" }), "T");
  assert.equal(nameOf({ title: "", preview: "p", copy: 1 }), "p (copy)");
  assert.equal(nameOf({ copy: 3 }), "Untitled story (copy 3)");
});

test("ids differ", () => {
  assert.equal(new Set(Array.from({ length: 100 }, newStoryId)).size, 100);
});
