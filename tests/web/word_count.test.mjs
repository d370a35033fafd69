import assert from "node:assert/strict";
import test from "node:test";
import { countWords, readingMinutes, WordTally } from "../../assets/web/word_count.js";
import { randomText, seeded } from "./random.mjs";

test("words are what writers count as such", () => {
  for (const [text, words] of [
    ["", 0],
    [" \n — … ", 0],
    ["It’s the lighthouse-keeper's 3rd cup.", 5],
    ["Donaudampfschifffahrtsgesellschaft, naïve café", 3],
    ["كان يا ما كان", 4],
    ["昔々あるところに", 8],
    ["Chapter 3\n\n“Go!” she said.", 5],
  ])
    assert.equal(countWords(text), words, text);
});

test("a tally that counts on comes to what counting afresh comes to", () => {
  const random = seeded(11);
  const tally = new WordTally();
  let text = "";
  for (let step = 0; step < 400; step += 1) {
    const from = Math.floor(random() * (text.length + 1));
    const to = Math.min(text.length, from + Math.floor(random() * 6));
    text = text.slice(0, from) + randomText(random, 8) + text.slice(to);
    assert.equal(tally.update(text), countWords(text), JSON.stringify(text));
  }
  assert.equal(tally.words, countWords(text));
});

test("reading takes at least a minute", () => {
  assert.deepEqual([readingMinutes(3), readingMinutes(2400)], [1, 10]);
});
