"""Make a story into one text to train on: where it begins, what a writer says about it, who its people are.

The page gives a model memory and lore in front of a story and the author's note a few lines above its end.
Here, facts of a story that come later are put there, by `jet.story.context` itself, so that a model learns
that they come true. Guidance is read, and never learnt to be written.
"""

from __future__ import annotations

import dataclasses
import re
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jet.story.context import ContextBuilder
from jet.story.guidance import AuthorsNote, Guidance, LoreEntry
from scripts.training import wishes
from scripts.training.facts import Fact
from scripts.training.names import Renamer, choose_names
from scripts.training.prepared import PreparedStory, Span

Mask = npt.NDArray[np.bool_]
NEAR, NEXT = 1_600, 900  # characters after the visible text in which memory, and a note, come true
_SENTENCE_END = re.compile(r"[.!?…][”\"’']?(?=\s)")
_BEGINNING = re.compile(r"[“\"‘']?[A-Z]")
_WORDS = re.compile(r"\S+")
_NO_LIMIT = 10**9


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of texts.

    Attributes:
        whole: modern stories that keep title and headings. All others lose them.
        middle: stories that begin at a paragraph in their first three quarters.
        ending: stories of which only the last 80 to 550 words are read. The rest begins behind the title.
        memory, lore, note: texts, of those without title, that have each.
        woven: texts into which a made-up fact is woven, told in memory, lore or note.
        wish: texts with a wish for length or end; a text of kind `ending` has it twice as often.
        renamed: stories whose people get other names.
        stock_learnt: stock phrases that are learnt; the others are only read.
    """

    whole: float = 0.12
    middle: float = 0.3
    ending: float = 0.16
    memory: float = 0.35
    lore: float = 0.12
    note: float = 0.35
    woven: float = 0.2
    wish: float = 0.3
    renamed: float = 0.75
    stock_learnt: float = 0.5


@dataclass(frozen=True)
class Marked:
    """A text and whether each of its characters is learnt, `[characters]`."""

    text: str
    learnt: Mask

    def __getitem__(self, part: slice) -> Marked:
        return Marked(self.text[part], self.learnt[part])

    def __len__(self) -> int:
        return len(self.text)

    @staticmethod
    def plain(text: str, learnt: bool = True) -> Marked:
        """Mark a whole text."""
        return Marked(text, np.full(len(text), learnt))

    @staticmethod
    def join(*parts: Marked) -> Marked:
        """Concatenate texts."""
        return Marked("".join(p.text for p in parts), np.concatenate([p.learnt for p in parts]))

    def insert(self, place: int, text: str) -> Marked:
        """Insert a text that is learnt."""
        return Marked.join(self[:place], Marked.plain(text), self[place:])


def compose(story: PreparedStory, mix: Mix, rng: np.random.Generator) -> Marked:
    """Return a story as one text to train on; equal generators give equal texts."""
    if story.is_tale:
        return Marked.plain(story.text)
    stock = [span for span in story.stock if rng.random() >= mix.stock_learnt]
    if rng.random() < mix.whole:
        text = _marked(story.text, stock)
    else:
        start, is_ending = _beginning(story, mix, rng)
        text, facts = _excerpt(story, stock, start)
        text = _guided(story, text, facts, mix, is_ending, rng)
    names = choose_names(story.people, set(re.findall(r"[^\W\d_]+", story.text)), rng, mix.renamed)
    return _renamed(text, Renamer(names)) if names else text


def _marked(text: str, unlearnt: list[Span]) -> Marked:
    learnt = np.ones(len(text), np.bool_)
    for start, end in unlearnt:
        learnt[start:end] = False
    return Marked(text, learnt)


def _beginning(story: PreparedStory, mix: Mix, rng: np.random.Generator) -> tuple[int, bool]:
    """Choose where a text begins, and say whether it is an ending."""
    chance = rng.random()
    if chance >= mix.middle + mix.ending:
        return story.body, False
    starts = [found.end() for found in re.finditer(r"\n\n", story.text) if found.end() > story.body]
    headings = {start for start, _ in story.headings}
    starts = [start for start in starts if start not in headings and _BEGINNING.match(story.text, start)]
    if chance < mix.ending:
        words = rng.integers(80, 550)
        wanted = len(story.text) - 5.8 * float(words)
        starts = [start for start in starts if start <= len(story.text) - 400]
        return (
            (starts[min(bisect_left(starts, wanted), len(starts) - 1)], True)
            if starts
            else (story.body, False)
        )
    last = story.body + 0.75 * (len(story.text) - story.body)
    starts = [start for start in starts if start < last]
    people = [start for start in starts if _tells_of(story, start)]
    chosen = people if people and rng.random() < 0.7 else starts
    return (chosen[int(rng.integers(len(chosen)))] if chosen else story.body), False


def _tells_of(story: PreparedStory, start: int) -> bool:
    """Return whether a paragraph begins with narration that names a person."""
    head = story.text[start : start + 100].split("\n")[0]
    return head[:1] not in "“\"‘'" and any(name in head for name in story.people)


def _excerpt(story: PreparedStory, stock: list[Span], start: int) -> tuple[Marked, list[Fact]]:
    """Return the text from `start` on without headings, and the facts in it at their new places."""
    kept = np.ones(len(story.text), np.bool_)
    kept[:start] = False
    for left, right in story.headings:
        kept[left:right] = False
    places: npt.NDArray[np.int64] = np.cumsum(kept) - kept
    whole = _marked(story.text, stock)
    text = "".join(np.array(list(story.text))[kept].tolist())
    excerpt = Marked(text, whole.learnt[kept])
    stripped = len(text) - len(text.rstrip())
    facts = [dataclasses.replace(f, start=int(places[f.start])) for f in story.facts if f.start >= start]
    return excerpt[: len(excerpt) - stripped], facts


# --- guidance -----------------------------------------------------------------------------------------


def _guided(
    story: PreparedStory, text: Marked, facts: list[Fact], mix: Mix, is_ending: bool, rng: np.random.Generator
) -> Marked:
    """Put guidance into a text that is true of what follows it."""
    visible = _visible_end(text.text, is_ending, rng)
    later = [fact for fact in facts if fact.start >= visible]
    memory, lore, note = list[str](), list[LoreEntry](), ""
    seen = text.text[:visible]
    if rng.random() < mix.memory:
        memory = _memory(later, visible, rng)
    if rng.random() < mix.lore:
        lore = _lore(later, seen, rng)
    if rng.random() < mix.note:
        note = _note([f for f in later if f.start < visible + NEXT], rng)
    if rng.random() < mix.woven:
        says, text = _woven(story, text, visible, rng)
        place = rng.random()
        if says and place < 0.55:
            memory.insert(int(rng.integers(len(memory) + 1)), says)
        elif says and (place < 0.9 or not story.people):
            note = says
        elif says:
            name = next(iter(story.people))
            lore.append(LoreEntry(keywords=(name,), content=says, constant=name not in seen))
    if rng.random() < mix.wish * (2 if is_ending else 1):
        note, memory = _wish(text.text, visible, is_ending, note, memory, rng)
    if not (memory or lore or note):
        return text
    joint = "\n" if rng.random() < 0.3 else " "
    guidance = Guidance(joint.join(memory), AuthorsNote(note), tuple(lore))
    return apply_guidance(text, visible, guidance)


def apply_guidance(text: Marked, visible: int, guidance: Guidance) -> Marked:
    """Return the prompt that the page would send for the first `visible` characters, and the rest."""
    prompt = ContextBuilder(len).build(text.text[:visible], guidance, _NO_LIMIT, 1)
    parts, place = list[Marked](), 0
    for part in prompt.parts:
        if part.kind == "story":
            parts.append(text[place : place + len(part.text)])
            place += len(part.text)
        else:
            parts.append(Marked.plain(part.text, learnt=False))
    assert place == visible
    return Marked.join(*parts, text[visible:])


def _visible_end(text: str, is_ending: bool, rng: np.random.Generator) -> int:
    """Choose how much a writer has: one to three sentences mostly, some paragraphs, or nothing."""
    chance = rng.random()
    if chance < 0.05:
        return 0
    if chance < 0.7:
        ends = [found.end() for found in _SENTENCE_END.finditer(text[:900])][:3]
        return ends[int(rng.integers(len(ends)))] if ends else 0
    limit = min(400 if is_ending else 3_000, len(text) // 2)
    ends = [found.end() for found in re.finditer(r"\n\n", text[:limit])]
    end = ends[int(rng.integers(len(ends)))] if ends else 0
    more = [found.end() for found in _SENTENCE_END.finditer(text[end : end + 600])][:2]
    return end + (more[0] if more and rng.random() < 0.5 else 0)


def _memory(later: list[Fact], visible: int, rng: np.random.Generator) -> list[str]:
    kinds = ("person", "relation", "place", "thing", "weather")
    usable = [fact for fact in later if fact.kind in kinds]
    near = [fact for fact in usable if fact.start < visible + NEAR]
    chosen = _some(near, 3, rng) + (_some(usable, 2, rng) if rng.random() < 0.4 else [])
    return list(dict.fromkeys(_says(fact, rng) for fact in _by_chance(chosen, rng)))


def _lore(later: list[Fact], seen: str, rng: np.random.Generator) -> list[LoreEntry]:
    """Make entries of facts that come later, for what the visible text names if there are any."""
    told = [f for f in later if f.kind in ("person", "relation", "place", "thing")]
    named = [f for f in told if f.subject in seen] or told[:2]  # else constant entries, of what comes next
    entries = []
    for fact in _some(named, 2, rng):
        others = [f for f in named if f.subject == fact.subject and f is not fact][:1]
        content = " ".join(_says(f, rng) for f in [fact, *others])
        constant = fact.subject not in seen
        entries.append(LoreEntry(keywords=(fact.subject,), content=content, constant=constant))
    return entries


def _note(near: list[Fact], rng: np.random.Generator) -> str:
    kinds = ("event", "weather", "tone", "thing", "tone", "person", "relation")
    kind = kinds[int(rng.integers(len(kinds)))]
    chosen = _some([f for f in near if f.kind == kind] or near, 1, rng)
    if not chosen:
        return ""
    says = _says(chosen[0], rng)
    form = rng.random()
    if chosen[0].kind == "event" and form < 0.5:
        return f"{('Next', 'In the next scene', 'What happens next')[int(6 * form)]}: {says}"
    return says.rstrip(".") if form > 0.85 else says


def _woven(story: PreparedStory, text: Marked, visible: int, rng: np.random.Generator) -> tuple[str, Marked]:
    """Weave a made-up fact into the text behind `visible`; return how a writer says it, and the text."""
    people = {name: gender for name, gender in story.people.items() if gender}
    first = {name: text.text.find(name) for name in people}
    named = [name for name in people if 0 <= first[name] < visible + NEXT]
    if not named:
        return "", text
    name = min(named, key=lambda name: (first[name] >= visible, -text.text.count(name)))
    fact = wishes.weave(name, people[name], rng)
    start = max(visible, first[name] + len(name))
    places = _between_sentences(text.text, start, start + 2 * NEXT)
    if not places:
        return "", text
    chosen = [places[int(rng.integers(max(1, bisect_left(places, start + NEXT // 2))))]]
    later = [place for place in places if place > chosen[0]]
    if later and rng.random() < 0.7:
        chosen.append(later[int(rng.integers(len(later)))])
    for place, shown in reversed(list(zip(chosen, fact.shows, strict=False))):
        text = text.insert(place, " " + shown)
    return fact.says, text


def _between_sentences(text: str, start: int, end: int) -> list[int]:
    """Return the places behind sentences of narration; none in a paragraph with quotation marks."""
    places, at = list[int](), 0
    for paragraph in text.split("\n\n"):
        if at > end:
            break
        if not re.search(r"[“”\"]", paragraph):
            for found in re.finditer(r"(?<![A-Z])[a-z’']{2,}[.!?](?=\s|\Z)", paragraph):
                place = at + found.end()
                if start < place <= end:
                    places.append(place)
        at += len(paragraph) + 2
    return places


def _wish(
    text: str, visible: int, is_ending: bool, note: str, memory: list[str], rng: np.random.Generator
) -> tuple[str, list[str]]:
    """Add a wish for the length or the end of the text that is true; return note and memory."""
    words = len(_WORDS.findall(text[visible:]))
    if not is_ending:
        if visible > 900:
            return note, memory
        says = wishes.length(len(_WORDS.findall(text)), rng)
    else:
        says = wishes.ending(words, rng)
    if rng.random() < 0.2:
        return note, [*memory, says]
    return (f"{note} {says}" if note and rng.random() < 0.4 else says), memory


def _says(fact: Fact, rng: np.random.Generator) -> str:
    return fact.says[int(rng.integers(len(fact.says)))]


def _some(facts: list[Fact], most: int, rng: np.random.Generator) -> list[Fact]:
    number = min(len(facts), int(rng.integers(1, most + 1)))
    return [facts[i] for i in rng.choice(len(facts), number, replace=False)] if number else []


def _by_chance(facts: list[Fact], rng: np.random.Generator) -> list[Fact]:
    return [facts[i] for i in rng.permutation(len(facts))]


def _renamed(text: Marked, rename: Renamer) -> Marked:
    parts, place = list[Marked](), 0
    for start, end, name in rename.places(text.text):
        parts += [text[place:start], Marked(name, np.full(len(name), bool(text.learnt[start])))]
        place = end
    return Marked.join(*parts, text[place:])
