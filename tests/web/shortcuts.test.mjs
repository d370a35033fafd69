import assert from "node:assert/strict";
import test from "node:test";
import { findShortcut, isApple, isShortcut, isWritingKey } from "../../assets/web/shortcuts.js";

const EDITOR = { id: "", closest: () => null };
const FIELD = { id: "", closest: () => FIELD };

function press(key, { code = "", target = EDITOR, altGraph = false, ...modifiers } = {}) {
  const none = {
    ctrlKey: false,
    altKey: false,
    metaKey: false,
    shiftKey: false,
    isComposing: false,
    keyCode: 0,
  };
  return { ...none, key, code, target, getModifierState: () => altGraph, ...modifiers };
}
const found = (key, options, apple = false) => findShortcut(press(key, options), EDITOR, apple);

test("the shortcuts of the page", () => {
  assert.equal(found("Escape"), "stop");
  assert.equal(found("Enter", { ctrlKey: true }), "go");
  assert.equal(found("Enter", { metaKey: true }), "go");
  assert.equal(found("Enter", { ctrlKey: true, shiftKey: true }), "cursor");
  assert.equal(found("Enter"), null);
  assert.equal(found("z", { ctrlKey: true }), "undo");
  assert.equal(found("Z", { ctrlKey: true, shiftKey: true }), "redo");
  assert.equal(found("y", { ctrlKey: true }), "redo");
  assert.equal(found("r", { altKey: true }), "retry");
  assert.equal(found("w", { altKey: true }), "word");
  assert.equal(found("b", { altKey: true }), "fork");
  assert.equal(found("b", { altKey: true, shiftKey: true }), null);
  assert.equal(found("Enter", { target: { ...EDITOR, id: "jet-about-what" } }), "ask");
});

test("they go by the letter, not by its place; in other scripts by its place", () => {
  assert.equal(found("z", { ctrlKey: true, code: "KeyY" }), "undo"); // a German keyboard
  assert.equal(found("w", { ctrlKey: true, code: "KeyZ" }), null); // a French one
  assert.equal(found("я", { ctrlKey: true, code: "KeyZ" }), "undo"); // a Russian one
});

test("a key that writes is never taken", () => {
  assert.equal(found("w", { altKey: true, ctrlKey: true }), null); // AltGr, as Windows reports it
  assert.equal(found("b", { altKey: true, altGraph: true }), null);
  assert.equal(found("®", { altKey: true, code: "KeyR" }, true), null); // Option on a Mac
  assert.equal(found("®", { altKey: true, ctrlKey: true, code: "KeyR" }, true), "retry");
});

test("an input method's keys are its own", () => {
  assert.equal(found("Escape", { isComposing: true }), null);
  assert.equal(found("Enter", { ctrlKey: true, keyCode: 229 }), null);
});

test("Undo in another field is that field's own", () => {
  assert.equal(found("z", { ctrlKey: true, target: FIELD }), null);
  assert.equal(found("Enter", { ctrlKey: true, target: FIELD }), "go");
});

test("what might be a shortcut is told from what writes", () => {
  const shortcut = (key, options) => isShortcut(press(key, options), EDITOR, false);
  assert.ok(shortcut("x", { altKey: true }) && shortcut("Escape"));
  assert.ok(!shortcut("x") && !shortcut("Enter"));
  const writes = (key, options) => isWritingKey(press(key, options));
  for (const key of ["a", " ", "Enter", "Backspace", "Delete", "Dead", "Process"])
    assert.ok(writes(key), key);
  for (const key of ["ArrowLeft", "Shift", "F5", "Tab"]) assert.ok(!writes(key), key);
  assert.ok(
    writes("v", { ctrlKey: true }) && writes("X", { metaKey: true }) && !writes("c", { ctrlKey: true }),
  );
});

test("Apple's systems are told apart", () => {
  assert.ok(isApple({ platform: "MacIntel" }) && isApple({ userAgentData: { platform: "macOS" } }));
  assert.ok(!isApple({ platform: "Linux x86_64" }) && !isApple(undefined));
});
