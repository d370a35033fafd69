"""Build the prompt within a token budget: memory, lore, story and author's note.

The order is: memory, triggered lore, the story up to where the model continues, and the author's note a few
lines above the end. A story that is too long loses its beginning.

The cut stays in place while the story grows. An engine that still has the state of the prompt then prefills
only new tokens; a cut that moved with every token would invalidate its cache each time. So the story is cut
only at fixed points, about one in every eighth of the context, which depend on the text before them alone.
The cut stays at one point until the story has outgrown the budget again, and then moves to the next.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, count
from operator import attrgetter
from typing import Literal, NamedTuple

from jet.affixes import common_prefix
from jet.api import RequestError
from jet.story.guidance import AuthorsNote, Guidance, LoreEntry
from jet.story.matching import KeywordSearch

CountPrompt = Callable[[str, str], int]
Kind = Literal["memory", "lore", "about", "story", "note"]

CUT_POINTS = 8  # marks per context at which the story may be cut
STORY_FRACTION = 4  # one part in so many of the budget is the story's, if it needs that much
MAX_UNIT_CHARACTERS = 2_000  # characters of the story that are counted, and kept or cut, as a whole
MAX_CACHED_COUNTS = 65_536
_EXACT_ATTEMPTS = 8  # attempts to cut a story by as much as it is over, before more is cut

_LINE = re.compile(r"[^\n]*\n+|[^\n]+")  # with the empty lines behind it
_SENTENCE_END = re.compile(r"[.!?…。！？]['\"’”»)\]]*\s+|(?<=[。！？])")
_SPACE = re.compile(r"\s+")


class PromptError(RequestError):
    """The prompt has no room for the story, because of guidance or settings.

    The message says what to change.
    """


@dataclass(frozen=True)
class PromptPart:
    """A part of the prompt.

    Attributes:
        kind: memory, lore, about, story or note.
        title: a title to show, such as "Memory" or the title of a lore entry.
        text: the text exactly as in the prompt, line breaks included.
        tokens: the number of tokens of the text.
        start: the offset in the story of the part's first character; None for parts that are not of the
            story.
    """

    kind: Kind
    title: str
    text: str
    tokens: int
    start: int | None = None


@dataclass(frozen=True)
class Omitted:
    """Guidance or story text that is not in the prompt: title, tokens and reason, for the writer."""

    kind: Kind
    title: str
    tokens: int
    reason: str


@dataclass(frozen=True)
class Prompt:
    """A prompt and how it was composed.

    Attributes:
        parts: their concatenated texts are the prompt.
        omitted: guidance and story text that did not fit.
        tokens: the tokens of the whole prompt; not always the sum over its parts, which may share a token.
        budget: maximum tokens of a prompt: the context minus the new tokens.
        instruction_parts: the number of parts at the start that are a chat model's instruction; the parts
            after them begin the model's answer.
    """

    parts: tuple[PromptPart, ...]
    omitted: tuple[Omitted, ...]
    tokens: int
    budget: int
    instruction_parts: int = 0

    @property
    def instruction(self) -> str:
        """Return the instruction for a chat model; "" for a story that is only continued."""
        return "".join(part.text for part in self.parts[: self.instruction_parts])

    @property
    def text(self) -> str:
        """Return the prompt, or the beginning of a chat model's answer."""
        return "".join(part.text for part in self.parts[self.instruction_parts :])


def as_tokenized(prompt: Prompt, tokenized: Callable[[str], str]) -> Prompt:
    """Return the prompt as the tokenizer reads it.

    `tokenized` maps a text to the text that the tokenizer reads, which may differ at the end only.
    """
    text = prompt.text
    now = tokenized(text)
    if now == text or not prompt.parts[prompt.instruction_parts :]:
        return prompt
    last = prompt.parts[-1]
    end = replace(last, text=now[len(text) - len(last.text) :])
    return replace(prompt, parts=(*prompt.parts[:-1], end))


class ContextBuilder:
    """Builds prompts. Keep one per model: it caches the token counts of the story's lines."""

    def __init__(self, count_tokens: Callable[[str], int]) -> None:
        """Create a builder for a model.

        `count_tokens` returns the number of tokens of a text, without special tokens around it.
        """
        self._count = lru_cache(maxsize=MAX_CACHED_COUNTS)(count_tokens)
        self._count_whole = count_tokens  # of texts too long to remember
        self._latest: tuple[str, list[_Unit]] = "", []

    def build(
        self,
        story: str,
        guidance: Guidance,
        context: int,
        max_new_tokens: int,
        chat_tokens: int | None = None,
        count_prompt: CountPrompt | None = None,
    ) -> Prompt:
        """Build the prompt for continuing behind the last character of `story`.

        Args:
            story: the text up to where the model continues, which may be inside a document.
            guidance: memory, note, lorebook and instruction.
            context: maximum tokens of prompt and continuation together.
            max_new_tokens: tokens of the context reserved for the continuation.
            chat_tokens: tokens of the model's chat template; None if it has none.
            count_prompt: returns the tokens of a finished prompt, template included, from its text and
                instruction. Default: the tokens of the texts alone.

        Raises:
            PromptError: the budget is empty, or memory leaves the story too little.
        """
        uses_chat = bool(guidance.about.strip()) and chat_tokens is not None
        budget = context - max_new_tokens - (chat_tokens or 0) * uses_chat
        if budget < 1:
            raise PromptError(
                f"{max_new_tokens:,} new tokens do not fit in a context of {context:,}: "
                "ask for fewer new tokens."
            )
        units = self._units(story)
        # What guidance may use: the story has a share that it keeps.
        story_tokens = min(sum(unit.tokens for unit in units), max(1, budget // STORY_FRACTION))
        available = budget - story_tokens
        budgeted = ContextBudget(available, self._count)
        budgeted.add_memory(guidance.memory, budget)
        budgeted.add_note(guidance.note)
        budgeted.add_lore(guidance.lore, story)
        if guidance.about.strip():
            budgeted.add_about(guidance.about, budget, uses_chat)
        seam_tokens = 0  # tokens that the seams between the parts take
        for attempt in count():
            kept_units = self._cut(
                units, budget - budgeted.tokens - seam_tokens, max(1, context // CUT_POINTS)
            )
            parts = (*budgeted.parts, *_insert_note(kept_units, budgeted.note, guidance.note))
            instruction_parts = len(budgeted.parts) if uses_chat else 0
            prompt = Prompt(parts, (), 0, budget, instruction_parts)
            tokens = self._measure(prompt, chat_tokens or 0, count_prompt)
            if tokens <= budget:
                break
            if not kept_units and not budgeted.drop_last():
                raise PromptError(
                    f"Memory and the like take {tokens:,} of the {budget:,} tokens that a prompt can "
                    "have here: shorten them, or ask for fewer new tokens."
                )
            seam_tokens += max(tokens - budget, seam_tokens if attempt > _EXACT_ATTEMPTS else 0)
            if budget - budgeted.tokens - seam_tokens < story_tokens and budgeted.drop_last():
                seam_tokens = 0
        omitted = budgeted.omitted
        start = kept_units[0].start if kept_units else len(story)
        if start > 0:
            lost = sum(unit.tokens for unit in units) - sum(unit.tokens for unit in kept_units)
            reason = f"the first {start:,} characters do not fit in the context"
            omitted = [*omitted, Omitted("story", "Story", lost, reason)]
        return replace(prompt, omitted=tuple(omitted), tokens=tokens)

    def _measure(self, prompt: Prompt, chat_tokens: int, count_prompt: CountPrompt | None) -> int:
        """Return the tokens of a finished prompt without those of the chat template."""
        if count_prompt is None:
            return sum(map(self._count_whole, filter(None, (prompt.instruction, prompt.text))))
        return count_prompt(prompt.text, prompt.instruction) - (
            chat_tokens if prompt.instruction_parts else 0
        )

    def _units(self, story: str) -> list[_Unit]:
        """Return the story's units: each line with the empty lines after it, or a part of a long line.

        Units in the common prefix with the previous story are reused.
        """
        before, known = self._latest
        same = common_prefix(before, story)
        index = max(0, bisect_left(known, same, key=_start_of) - 1)
        while index and before[known[index].start - 1] != "\n":  # in the midst of a long line
            index -= 1
        start = known[index].start if known else 0
        units = known[:index] + [_Unit(at, text, self._count(text)) for at, text in _split(story, start)]
        self._latest = story, units
        return units

    def _cut(self, units: list[_Unit], budget: int, interval: int) -> list[_Unit]:
        """Return the units from the first cut point from which the story fits in `budget` tokens.

        `interval`: the tokens between two cut points. If the story does not fit from any cut point, as many
        units as possible are kept.
        """
        sums = list(accumulate((unit.tokens for unit in units), initial=0))
        overflow = sums[-1] - budget
        if overflow <= 0:
            return units
        if budget <= 0:
            return []
        next_cut = interval
        for index, cost in enumerate(sums[:-1]):
            if cost < next_cut:
                continue
            if cost >= overflow:
                return units[index:]
            next_cut = (cost // interval + 1) * interval
        # A context so small that the last mark leaves nothing: as many whole units as fit, or a bit of one.
        first = next(index for index, cost in enumerate(sums) if cost >= overflow)
        return units[first:] if first < len(units) else self._end_of(units[-1], budget)

    def _end_of(self, unit: _Unit, budget: int) -> list[_Unit]:
        """Return the longest end of a unit that fits in `budget` tokens.

        The end begins after white space, if possible. The list is empty if no character fits. Assumes that
        longer texts have at least as many tokens.
        """
        too_few, enough = 0, len(unit.text)  # characters that are cut: too few, enough
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            too_few, enough = (
                (too_few, middle) if self._count(unit.text[middle:]) <= budget else (middle, enough)
            )
        space = _SPACE.search(unit.text, enough)
        if space is not None and space.end() < len(unit.text):
            enough = space.end()
        text = unit.text[enough:]
        return [_Unit(unit.start + enough, text, self._count(text))] if text else []


class _Unit(NamedTuple):
    start: int
    text: str
    tokens: int


_start_of = attrgetter("start")


class ContextBudget:
    """Adds guidance to a prompt in the order of the calls, as long as the token budget allows."""

    def __init__(self, available: int, count: Callable[[str], int]) -> None:
        self.parts: list[PromptPart] = []
        self.note: PromptPart | None = None
        self.omitted: list[Omitted] = []
        self.tokens = 0
        self._available = available
        self._count = count

    def add_memory(self, memory: str, budget: int) -> None:
        """Add the memory. Raises PromptError if it does not fit."""
        if not memory.strip():
            return
        text = _as_paragraph(memory)
        tokens = self._count(text)
        if tokens > self._available:
            raise PromptError(
                f"Memory takes {tokens:,} of the {budget:,} tokens that a prompt can have here, which leaves "
                f"the story too little. Shorten it to {self._available:,} tokens, "
                "or ask for fewer new tokens."
            )
        self._add(PromptPart("memory", "Memory", text, tokens))

    def add_note(self, note: AuthorsNote) -> None:
        """Add the author's note, or omit it if it does not fit. The prompt's builder decides its position."""
        if not note.text.strip():
            return
        text = f"[Author's note: {note.text.strip()}]\n"
        part = PromptPart("note", "Author's note", text, self._count(text))
        self.note = part if self._reserve(part) else None

    def drop_last(self) -> bool:
        """Drop the last lore entry, or else the note. Returns whether there was one."""
        lore = [part for part in self.parts if part.kind == "lore"]
        part = lore[-1] if lore else self.note
        if part is None:
            return False
        if lore:
            self.parts = [other for other in self.parts if other is not part]
        else:
            self.note = None
        self.tokens -= part.tokens
        reason = f"it takes {part.tokens:,} tokens, which do not fit beside the story"
        self.omitted.append(Omitted(part.kind, part.title, part.tokens, reason))
        return True

    def add_lore(self, lore: tuple[LoreEntry, ...], story: str) -> None:
        """Add the lore entries that are constant or that the story triggers, by their `order`.

        Entries that do not fit are omitted.
        """
        search = KeywordSearch(story)
        for entry in sorted(lore, key=lambda entry: entry.order):
            active = entry.enabled and bool(entry.content.strip())
            if active and (entry.constant or _is_triggered(entry, search, story)):
                text = _as_paragraph(entry.content)
                title = entry.title or ", ".join(entry.keywords) or "Lore"
                part = PromptPart("lore", title, text, self._count(text))
                if self._reserve(part):
                    self.parts.append(part)

    def add_about(self, about: str, budget: int, uses_chat: bool) -> None:
        """Add the instruction for a chat model; omit it for other models.

        Raises PromptError if the instruction does not fit.
        """
        text = f"Write me a story about {about.strip()}"
        tokens = self._count(text)
        if not uses_chat:
            self.omitted.append(Omitted("about", "What it is about", tokens, "this model cannot be asked"))
        elif tokens > self._available - self.tokens:
            raise PromptError(
                f"What the story is to be about takes {tokens:,} of the {budget:,} tokens that a prompt can "
                "have here: say it in fewer words, or ask for fewer new tokens."
            )
        else:
            self._add(PromptPart("about", "What it is about", text, tokens))

    def _add(self, part: PromptPart) -> None:
        self._reserve(part)
        self.parts.append(part)

    def _reserve(self, part: PromptPart) -> bool:
        left = self._available - self.tokens
        if part.tokens > left:
            reason = f"it takes {part.tokens:,} tokens, and {left:,} are left beside the story"
            self.omitted.append(Omitted(part.kind, part.title, part.tokens, reason))
            return False
        self.tokens += part.tokens
        return True


def is_triggered(entry: LoreEntry, story: str) -> bool:
    """Return whether a lore entry's keywords trigger it in the end of the story that the entry scans."""
    return _is_triggered(entry, KeywordSearch(story), story)


def _is_triggered(entry: LoreEntry, search: KeywordSearch, story: str) -> bool:
    if entry.scan_unit == "characters":
        start = max(0, len(story) - entry.scan_depth)
    else:
        start = _start_of_last(story, entry.scan_depth, "paragraphs")

    def has(keywords: tuple[str, ...]) -> bool:
        return search.contains_any(keywords, start, entry.case_sensitive, entry.whole_word)

    secondary = entry.secondary_keywords
    return has(entry.keywords) and (not secondary or has(secondary)) and not has(entry.anti_keywords)


def _as_paragraph(text: str) -> str:
    """Return guidance as a separate paragraph, with a blank line after it."""
    return text.strip("\n") + "\n\n"


def _split(story: str, start: int = 0) -> Iterator[tuple[int, str]]:
    """Yield the units of the story from `start` on, the beginning of a line, as (offset, text).

    A unit is a line with the empty lines after it. A long line gives several units. An edit leaves the units
    of other lines unchanged; an append changes the last unit only.
    """
    for line in _LINE.finditer(story, start):
        start, end = line.span()
        while end - start > MAX_UNIT_CHARACTERS:
            stop = _find_split(story, start, start + MAX_UNIT_CHARACTERS)
            yield start, story[start:stop]
            start = stop
        yield start, story[start:end]


def _find_split(story: str, start: int, limit: int) -> int:
    """Return the offset up to `limit` at which to split a long line: after a sentence, else after a word."""
    for pattern in (_SENTENCE_END, _SPACE):
        ends = [found.end() for found in pattern.finditer(story, start, limit) if found.end() > start]
        if ends:
            return ends[-1]
    return limit


def _insert_note(units: list[_Unit], note: PromptPart | None, placement: AuthorsNote) -> list[PromptPart]:
    """Return the story as one part, or as two parts with the note between them."""
    if not units:
        return [note] if note else []
    if note is None:
        return [_to_story_part(units)]
    story = "".join(unit.text for unit in units)
    place = units[0].start + _start_of_last(story, placement.depth, placement.unit)
    before_note = [unit for unit in units if unit.start < place]
    after_note = [unit for unit in units if unit.start >= place]
    return [*([_to_story_part(before_note)] if before_note else []), note, _to_story_part(after_note)]


def _to_story_part(units: list[_Unit]) -> PromptPart:
    text = "".join(unit.text for unit in units)
    return PromptPart("story", "Story", text, sum(unit.tokens for unit in units), units[0].start)


def _start_of_last(text: str, number: int, unit: Literal["lines", "paragraphs"]) -> int:
    """Return the offset at which the last `number` lines or paragraphs begin; 0 if the text has fewer.

    Blank lines are not counted. The last line counts even without a line break at its end.
    """
    end, found, in_paragraph = len(text), 0, False
    while end > 0:
        start = text.rfind("\n", 0, end - 1) + 1
        blank = not text[start:end].strip()
        if not blank and (unit == "lines" or not in_paragraph):
            found += 1
        in_paragraph = not blank
        if not blank and found == number and (unit == "lines" or _follows_blank_line(text, start)):
            return start
        end = start
    return 0


def _follows_blank_line(text: str, start: int) -> bool:
    return start == 0 or not text[text.rfind("\n", 0, start - 1) + 1 : start].strip()
