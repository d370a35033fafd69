import assert from "node:assert/strict";
import test from "node:test";
import { blocksOf, toHtml } from "../../assets/web/manuscript.js";

const kinds = (text) => blocksOf(text).map(({ kind, level }) => `${kind}${level || ""}`);

test("headings, scene breaks and paragraphs are told apart", () => {
  const text = "# One\n\nText\nover two lines.\n* * *\nChapter 3: The Way\n\n\n## Two\nMore.\n---\n#";
  assert.deepEqual(kinds(text), [
    ...["heading1", "paragraph", "scene", "heading", "heading2", "paragraph", "scene", "scene"],
  ]);
  assert.equal(blocksOf(text)[1].lines.length, 2);
  assert.deepEqual(kinds("\n\n"), []);
});

test("emphasis stands at words only", () => {
  assert.equal(
    toHtml("*a* _b_ **c** ***d***"),
    '<p dir="auto"><em>a</em> <em>b</em> <strong>c</strong> <strong><em>d</em></strong></p>',
  );
  assert.equal(toHtml("2*3*4 a_b_c *open"), '<p dir="auto">2*3*4 a_b_c *open</p>');
});

test("text is never markup", () => {
  const html = toHtml("<b>&\n\n# <i>", { title: '<img src="x">', author: "A & B" });
  assert.ok(!/<(?:b|i|img)\b/.test(html));
  assert.ok(
    html.startsWith(
      '<header><h1 dir="auto">&lt;img src=&quot;x&quot;&gt;</h1><p dir="auto">A &amp; B</p></header>',
    ),
  );
});
