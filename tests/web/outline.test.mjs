import assert from "node:assert/strict";
import test from "node:test";
import { moveSection, sectionsOf, withChildren } from "../../assets/web/outline.js";
import { seeded } from "./random.mjs";

const STORY = "Before.\n\n# One\n\nA.\n\n## Inner\n\nB.\n\n# Two\nC.\n\nChapter 3\n\nD.";

test("headings of every kind are sections, and what is before them is none", () => {
  const sections = sectionsOf(STORY);
  assert.deepEqual(
    sections.map(({ title, level }) => [title, level]),
    [
      ["One", 1],
      ["Inner", 2],
      ["Two", 1],
      ["Chapter 3", 1],
    ],
  );
  assert.equal(STORY.slice(sections[2].start, sections[2].end), "# Two\nC.\n\n");
  assert.equal(withChildren(sections, 0), 2);
  assert.deepEqual(sectionsOf("No heading."), []);
});

test("a section moves with what is below it, and blank lines stay", () => {
  assert.equal(
    moveSection(STORY, 0, 3),
    "Before.\n\n# Two\nC.\n\n# One\n\nA.\n\n## Inner\n\nB.\n\nChapter 3\n\nD.",
  );
  assert.equal(moveSection(STORY, 3, 0).startsWith("Before.\n\nChapter 3\n\nD.\n\n# One"), true);
  assert.equal(moveSection(STORY, 0, 1), STORY);
});

test("no letter is lost, whatever is moved where", () => {
  const random = seeded(5);
  const letters = (text) => [...text.replace(/\n/g, "")].sort().join("");
  for (let step = 0; step < 300; step += 1) {
    const lines = Array.from(
      { length: 12 },
      (_, at) => ["", `# H${at}`, `## I${at}`, `words ${at}`][Math.floor(random() * 4)],
    );
    const text = lines.join("\n");
    const sections = sectionsOf(text);
    if (!sections.length) continue;
    const index = Math.floor(random() * sections.length);
    const moved = moveSection(text, index, Math.floor(random() * (sections.length + 1)));
    assert.equal(letters(moved), letters(text));
    assert.equal(sectionsOf(moved).length, sections.length, JSON.stringify([text, moved]));
  }
});
