import assert from "node:assert/strict";
import test from "node:test";
import { findAll, patternOf, replaceAll, replacedAt } from "../../assets/web/find_text.js";

const PLAIN = { regex: false, whole: false, exact: false };
const found = (text, query, options = {}) =>
  findAll(text, patternOf(query, { ...PLAIN, ...options })).map(([start, end]) => text.slice(start, end));

test("a text is found as it stands, in small letters or capitals", () => {
  assert.deepEqual(found("Ann, ann and Anna", "ann"), ["Ann", "ann", "Ann"]);
  assert.deepEqual(found("Ann, ann and Anna", "ann", { exact: true }), ["ann"]);
  assert.deepEqual(found("1+1=2 (a.b) $5 [x]", "(a.b) $5 [x]"), ["(a.b) $5 [x]"]);
  assert.deepEqual(found("ÉTÉ été", "été"), ["ÉTÉ", "été"]);
});

test("whole words are those of any language", () => {
  assert.deepEqual(found("Ann Anna müann ann’s", "ann", { whole: true }), ["Ann", "ann"]);
  assert.equal(found("über überall", "über", { whole: true }).length, 1);
});

test("patterns find lines and groups, and never nothing", () => {
  assert.deepEqual(found("# One\ntext\n# Two", "^# .*$", { regex: true }), ["# One", "# Two"]);
  assert.deepEqual(found("abc", "x*", { regex: true }), []);
  assert.throws(() => patternOf("(", { ...PLAIN, regex: true }), /cannot be read/);
});

test("all are replaced, with groups where it is a pattern and as it stands where it is none", () => {
  const pattern = patternOf("(\\w+), (\\w+)", { ...PLAIN, regex: true });
  assert.deepEqual(replaceAll("Doe, John; Roe, Jane", pattern, "$2 $1", true), {
    text: "John Doe; Jane Roe",
    count: 2,
  });
  const plain = patternOf("a", PLAIN);
  assert.equal(replaceAll("a-b", plain, "$&\\n", false).text, "$&\\n-b");
  const named = patternOf("(?<x>o)", { ...PLAIN, regex: true });
  assert.equal(replaceAll("o", named, "$$ $& $<x> $1 $9 $<y>\\n\\t\\\\", true).text, "$ o o o $9 $<y>\n\t\\");
  const around = patternOf("(?<=a)b(?=c)", { ...PLAIN, regex: true });
  assert.equal(replaceAll("abc bbc", around, "[$&]", true).text, "a[b]c bbc");
  assert.equal(replacedAt("abc", around, [1, 2], "x", true), "x");
});
