import assert from "node:assert/strict";
import test from "node:test";
import { mayBeNarrow } from "../../assets/web/paragraphs.js";

test("prose in the scripts of the sheet's face may be narrow, whatever signs are in it", () => {
  for (const text of [
    "",
    "One.\n\nTwo — “three”… 😀",
    "Он пошёл к морю.",
    "Łódź, Straße, Việt Nam",
    "She said 月 and left.",
  ]) {
    assert.ok(mayBeNarrow(text), text);
  }
});

test("other scripts and very long texts are not", () => {
  for (const text of [
    "彼は港へ歩いた。",
    "ذهب إلى البحر",
    "Πήγε στη θάλασσα",
    "המים היו קרים",
    "हवा ठंडी थी",
    "바다로 갔다",
  ]) {
    assert.ok(!mayBeNarrow(text), text);
  }
  assert.ok(mayBeNarrow(`${"word ".repeat(390)}\n\n`.repeat(2)));
  assert.ok(!mayBeNarrow("word ".repeat(401)), "a long paragraph");
  assert.ok(!mayBeNarrow("A line.\n\n".repeat(2300)), "a long story");
});
