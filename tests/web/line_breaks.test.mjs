import assert from "node:assert/strict";
import test from "node:test";
import { mayBringLineBreaks, normalizeLineBreaks } from "../../assets/web/line_breaks.js";

test("line breaks of other programs become the usual one, unit by unit", () => {
  const foreign = "a\vb\fc\u0085d\u2028e\u2029f";
  assert.equal(normalizeLineBreaks(foreign), "a\nb\nc\nd\ne\nf");
  assert.equal(normalizeLineBreaks("a\r\nb\tc"), "a\r\nb\tc");
});

test("keys bring none, unless a word list or a voice wrote them", () => {
  for (const type of ["insertText", "insertLineBreak", "insertCompositionText", "deleteContentBackward"]) {
    assert.equal(mayBringLineBreaks(type, "a"), false);
  }
  assert.equal(mayBringLineBreaks("insertText", "a\u2028b"), true);
  assert.equal(mayBringLineBreaks("insertFromPaste", null), true);
  assert.equal(mayBringLineBreaks(undefined, undefined), true);
});
