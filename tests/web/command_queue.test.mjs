import assert from "node:assert/strict";
import test from "node:test";
import {
  CommandQueue,
  isAutomatic,
  isReadOnly,
  opensStory,
  replacesText,
} from "../../assets/web/command_queue.js";

function queueOf(...names) {
  const queue = new CommandQueue();
  for (const name of names) queue.push({ order: { do: name } });
  return queue;
}
const names = (queue, allowed) => {
  const found = [];
  for (let entry = queue.next(allowed); entry; entry = queue.next(allowed)) {
    found.push(entry.order.do);
    queue.finish();
  }
  return found;
};

test("commands go one at a time, in order", () => {
  const queue = queueOf("guide", "title");
  assert.equal(queue.next()?.order.do, "guide");
  assert.equal(queue.next(), null);
  assert.equal(queue.finish()?.order.do, "guide");
  assert.equal(queue.next()?.order.do, "title");
  assert.equal(queue.length, 0);
});

test("a command that brings a text overtakes commands that only look", () => {
  assert.deepEqual(names(queueOf("look", "keep", "undo", "guide")), ["undo", "look", "keep", "guide"]);
});

test("but none that changes the story", () => {
  assert.deepEqual(names(queueOf("guide", "undo")), ["guide", "undo"]);
  assert.deepEqual(names(queueOf("look", "guide", "undo")), ["look", "guide", "undo"]);
});

test("commands that bring a text keep their order among themselves", () => {
  const queue = queueOf("undo", "look", "redo");
  assert.deepEqual(
    queue.replacing.map(({ order }) => order.do),
    ["undo", "redo"],
  );
  assert.deepEqual(names(queue), ["undo", "redo", "look"]);
});

test("while the model writes only what the server takes then goes, first things first", () => {
  const queue = queueOf("guide", "keep", "look", "show");
  assert.deepEqual(names(queue, ["show", "look", "keep"]), ["show", "look", "keep"]);
  assert.equal(queue.length, 1);
  assert.deepEqual(names(queue), ["guide"]);
});

test("an empty queue has nothing to send", () => {
  const queue = new CommandQueue();
  assert.equal(queue.next(), null);
  assert.equal(queue.next(["look"]), null);
  assert.equal(queue.finish(), null);
});

test("what a command is told by its name alone", () => {
  assert.ok(isReadOnly({ do: "export" }) && !isReadOnly({ do: "guide" }));
  assert.ok(replacesText({ do: "fork" }) && !replacesText({ do: "look" }));
  assert.ok(opensStory({ do: "import" }) && !opensStory({ do: "undo" }));
  assert.ok(isAutomatic({ do: "keep" }) && !isAutomatic({ do: "export" }));
});

test("a waiting command is found by its name", () => {
  const queue = queueOf("look");
  assert.ok(queue.has("look") && !queue.has("keep"));
});
