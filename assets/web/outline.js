// The chapters of a story: an outline of its headings, whose parts can be moved. No DOM.

import { headingOf } from "./manuscript.js";

/** @typedef {{ title: string, level: number, start: number, end: number }} Section `end` is where the next begins */

/** Finds the sections of a text; what stands before the first heading is none. @param {string} text @returns {Section[]} */
export function sectionsOf(text) {
  /** @type {Section[]} */
  const found = [];
  let start = 0;
  for (const line of text.split("\n")) {
    const heading = headingOf(line);
    if (heading) found.push({ ...heading, level: heading.level || 1, start, end: text.length });
    start += line.length + 1;
  }
  for (let index = 1; index < found.length; index += 1) found[index - 1].end = found[index].start;
  return found;
}

/** The number of sections that move with one: its own and those below it. @param {Section[]} sections @param {number} index */
export function withChildren(sections, index) {
  let last = index + 1;
  while (last < sections.length && sections[last].level > sections[index].level) last += 1;
  return last - index;
}

/**
 * Moves a section, with those below it, in front of another or to the end. The blank lines between sections stay where
 * they are, so that not a letter is lost and no two sections run into one another.
 * @param {string} text
 * @param {number} index of the section
 * @param {number} to index of the section that is to follow it; the number of sections for the end
 */
export function moveSection(text, index, to) {
  const sections = sectionsOf(text);
  const count = withChildren(sections, index);
  if (to >= index && to <= index + count) return text;
  const parts = sections.map(({ start, end }) => text.slice(start, end));
  const bodies = parts.map((part) => part.replace(/\n+$/, ""));
  const gaps = parts.map((part, at) => part.slice(bodies[at].length));
  const moved = bodies.splice(index, count);
  bodies.splice(to > index ? to - count : to, 0, ...moved);
  const inner = gaps.map((gap, at) => (at < gaps.length - 1 && !gap ? "\n" : gap));
  return text.slice(0, sections[0].start) + bodies.map((body, at) => body + inner[at]).join("");
}
