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
  for (const name of names) queue.push({ order: { type: name } });
  return queue;
}
const names = (queue, allowed) => {
  const found = [];
  for (let entry = queue.next(allowed); entry; entry = queue.next(allowed)) {
    found.push(entry.order.type);
    queue.finish();
  }
  return found;
};

test("commands go one at a time, in order", () => {
  const queue = queueOf("set_guidance", "set_title");
  assert.equal(queue.next()?.order.type, "set_guidance");
  assert.equal(queue.next(), null);
  assert.equal(queue.finish()?.order.type, "set_guidance");
  assert.equal(queue.next()?.order.type, "set_title");
  assert.equal(queue.length, 0);
});

test("a command that brings a text overtakes commands that only look", () => {
  assert.deepEqual(names(queueOf("sync", "autosave", "undo", "set_guidance")), [
    "undo",
    "sync",
    "autosave",
    "set_guidance",
  ]);
});

test("but none that changes the story", () => {
  assert.deepEqual(names(queueOf("set_guidance", "undo")), ["set_guidance", "undo"]);
  assert.deepEqual(names(queueOf("sync", "set_guidance", "undo")), ["sync", "set_guidance", "undo"]);
});

test("commands that bring a text keep their order among themselves", () => {
  const queue = queueOf("undo", "sync", "redo");
  assert.deepEqual(
    queue.replacing.map(({ order }) => order.type),
    ["undo", "redo"],
  );
  assert.deepEqual(names(queue), ["undo", "redo", "sync"]);
});

test("while the model writes only what the server takes then goes, first things first", () => {
  const queue = queueOf("set_guidance", "autosave", "sync", "select_branch");
  assert.deepEqual(names(queue, ["select_branch", "sync", "autosave"]), [
    "select_branch",
    "sync",
    "autosave",
  ]);
  assert.equal(queue.length, 1);
  assert.deepEqual(names(queue), ["set_guidance"]);
});

test("an empty queue has nothing to send", () => {
  const queue = new CommandQueue();
  assert.equal(queue.next(), null);
  assert.equal(queue.next(["sync"]), null);
  assert.equal(queue.finish(), null);
});

test("what a command is told by its name alone", () => {
  assert.ok(isReadOnly({ type: "export" }) && !isReadOnly({ type: "set_guidance" }));
  assert.ok(replacesText({ type: "fork" }) && !replacesText({ type: "sync" }));
  assert.ok(opensStory({ type: "import_file" }) && !opensStory({ type: "undo" }));
  assert.ok(isAutomatic({ type: "autosave" }) && !isAutomatic({ type: "export" }));
});

test("a waiting command is found by its name", () => {
  const queue = queueOf("sync");
  assert.ok(queue.has("sync") && !queue.has("autosave"));
});
