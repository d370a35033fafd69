"""Make a story into one text to train on, with guidance as a writer would give it.

The page puts memory and lore in front of a story, and the author's note a few lines above its end. Here,
`jet.story.context` puts facts from later in the story into the same places, so that a model learns to follow
guidance. Guidance is read, but never learned. The sentences in which it comes true are learned with more
weight. A text may begin within the story, and its people may get other names.
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
from scripts.training.facts import SENTENCE, Fact
from scripts.training.made_up import Person, weave
from scripts.training.names import Renamer, choose_names
from scripts.training.prepared import PreparedStory, Span

Weights = npt.NDArray[np.uint8]
READ, LEARNT, STRESSED = 0, 1, 2  # characters that are only read, learnt, and learnt with more weight
NEAR, NEXT = 1_600, 900  # characters after the visible text in which memory, and a note, come true
_SENTENCE_END = re.compile(r"[.!?…][”\"’']?(?=\s)")
_BEGINNING = re.compile(r"[“\"‘']?[A-Z]")
_WORDS = re.compile(r"\S+")
_NO_LIMIT = 10**9
SHORTEST, LONGEST = 600, 2_600  # characters behind the visible text, of one that is cut


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of texts.

    Attributes:
        whole: modern stories that keep title and headings. All others lose them.
        middle: stories that begin at a paragraph in the first three quarters of their body.
        ending: stories of which only the last 80 to 550 words are read. All remaining stories begin behind
            the title.
        memory, lore, note: texts without title that have this kind of guidance.
        woven: texts into which a made-up fact is woven, which memory, lore or note tells.
        twice: woven texts into which a second made-up fact is woven.
        cut: texts with guidance and without a wish that end at a paragraph soon after the guidance has come
            true.
        wish: texts with a wish for length or end; a text of kind `ending` has it twice as often.
        renamed: stories whose people get other names.
        stock_learnt: stock phrases that are learned; the others are only read.
    """

    whole: float = 0.12
    middle: float = 0.4
    ending: float = 0.16
    memory: float = 0.35
    lore: float = 0.15
    note: float = 0.35
    woven: float = 0.5
    twice: float = 0.3
    cut: float = 0.6
    wish: float = 0.3
    renamed: float = 0.75
    stock_learnt: float = 0.5


@dataclass(frozen=True)
class Marked:
    """A text, and a weight for each of its characters: `READ`, `LEARNT` or `STRESSED`, `[characters]`.

    `ends` is False if the text was cut before the end of its story.
    """

    text: str
    weights: Weights
    ends: bool = True

    def __getitem__(self, part: slice) -> Marked:
        return Marked(self.text[part], self.weights[part], self.ends)

    def __len__(self) -> int:
        return len(self.text)

    @staticmethod
    def plain(text: str, weight: int = LEARNT) -> Marked:
        """Mark a whole text with one weight."""
        return Marked(text, np.full(len(text), weight, np.uint8))

    @staticmethod
    def join(*parts: Marked) -> Marked:
        """Concatenate texts; `ends` is taken from the last one."""
        weights = np.concatenate([part.weights for part in parts])
        return Marked("".join(part.text for part in parts), weights, parts[-1].ends)

    def insert(self, place: int, text: str) -> Marked:
        """Return this text with another one inserted at `place`, stressed."""
        return Marked.join(self[:place], Marked.plain(text, STRESSED), self[place:])

    def stress(self, start: int, end: int) -> Marked:
        """Return this text with the learned characters from `start` to `end` stressed."""
        weights = self.weights.copy()
        weights[start:end][weights[start:end] == LEARNT] = STRESSED
        return Marked(self.text, weights, self.ends)


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
    weights = np.full(len(text), LEARNT, np.uint8)
    for start, end in unlearnt:
        weights[start:end] = READ
    return Marked(text, weights)


def _beginning(story: PreparedStory, mix: Mix, rng: np.random.Generator) -> tuple[int, bool]:
    """Choose where a text begins; return the index, and True if only the story's ending is read."""
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
    """Return whether the paragraph at `start` begins with narration that names a person."""
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
    excerpt = Marked(text, whole.weights[kept])
    stripped = len(text) - len(text.rstrip())
    facts = [dataclasses.replace(f, start=int(places[f.start])) for f in story.facts if f.start >= start]
    return excerpt[: len(excerpt) - stripped], facts


# --- guidance -----------------------------------------------------------------------------------------


@dataclass
class _Telling:
    """A text, and the guidance that a writer gives for it.

    The writer has the text up to `visible`. At `last`, all guidance has come true.
    """

    text: Marked
    visible: int
    last: int
    memory: list[str] = dataclasses.field(default_factory=list)
    lore: list[LoreEntry] = dataclasses.field(default_factory=list)
    note: str = ""


def _guided(
    story: PreparedStory, text: Marked, facts: list[Fact], mix: Mix, is_ending: bool, rng: np.random.Generator
) -> Marked:
    """Return the text with guidance that comes true in its later part."""
    visible = _visible_end(text.text, is_ending, rng)
    telling = _Telling(text, visible, visible)
    _tell_facts(telling, [fact for fact in facts if fact.start >= visible], mix, rng)
    for chance in (mix.woven, mix.twice):
        if rng.random() >= chance:
            break
        _tell_made_up(telling, story, rng)
    wishes_something = rng.random() < mix.wish * (2 if is_ending else 1) and _wish(telling, is_ending, rng)
    if not (telling.memory or telling.lore or telling.note):
        return telling.text
    if not (is_ending or wishes_something) and rng.random() < mix.cut:
        _cut(telling, rng)
    joint = "\n" if rng.random() < 0.3 else " "
    guidance = Guidance(joint.join(telling.memory), AuthorsNote(telling.note), tuple(telling.lore))
    return apply_guidance(telling.text, visible, guidance)


def _tell_facts(telling: _Telling, later: list[Fact], mix: Mix, rng: np.random.Generator) -> None:
    """Add facts of the text to the guidance, and stress the sentences that state them."""
    told = list[Fact]()
    if rng.random() < mix.memory:
        told += _memory(later, telling.visible, rng)
        telling.memory = list(dict.fromkeys(_says(fact, rng) for fact in _by_chance(told, rng)))
    if rng.random() < mix.lore:
        entries = _lore(later, telling.text.text[: telling.visible], rng)
        telling.lore = [entry for entry, _ in entries]
        told += [fact for _, facts in entries for fact in facts]
    if rng.random() < mix.note:
        telling.note, chosen = _note([f for f in later if f.start < telling.visible + NEXT], rng)
        told += chosen
    for fact in told:
        end = _sentence_end(telling.text.text, fact.start)
        telling.text = telling.text.stress(fact.start, end)
        telling.last = max(telling.last, end)


def _tell_made_up(telling: _Telling, story: PreparedStory, rng: np.random.Generator) -> None:
    """Weave a made-up fact into the text, and add it to the guidance."""
    says = _woven(telling, story, rng)
    if not says:
        return
    where = rng.random()
    if where < 0.5 or (telling.note and where < 0.85):
        telling.memory.insert(int(rng.integers(len(telling.memory) + 1)), says)
    elif where < 0.85 or not story.people:
        telling.note = says
    else:
        name = next(iter(story.people))
        constant = name not in telling.text.text[: telling.visible]
        telling.lore.append(LoreEntry(keywords=(name,), content=says, constant=constant))


def _sentence_end(text: str, start: int) -> int:
    found = SENTENCE.match(text, start)
    return found.end() if found else min(len(text), start + 80)


def _cut(telling: _Telling, rng: np.random.Generator) -> None:
    """Cut the text at the end of a paragraph after all guidance has come true, if there is one."""
    text, last = telling.text, telling.last
    least, most = max(last, telling.visible + SHORTEST), max(last + SHORTEST, telling.visible + LONGEST)
    ends = [found.start() for found in re.finditer(r"\n\n", text.text[:most]) if found.start() > least]
    if ends:
        cut = text[: ends[int(rng.integers(len(ends)))]]
        telling.text = dataclasses.replace(cut, ends=False)


def apply_guidance(text: Marked, visible: int, guidance: Guidance) -> Marked:
    """Return the page's prompt for the first `visible` characters, followed by the rest of the text."""
    prompt = ContextBuilder(len).build(text.text[:visible], guidance, _NO_LIMIT, 1)
    parts, place = list[Marked](), 0
    for part in prompt.parts:
        if part.kind == "story":
            parts.append(text[place : place + len(part.text)])
            place += len(part.text)
        else:
            parts.append(Marked.plain(part.text, READ))
    assert place == visible
    return Marked.join(*parts, text[visible:])


def _visible_end(text: str, is_ending: bool, rng: np.random.Generator) -> int:
    """Choose how many characters the writer has: mostly one to three sentences, else paragraphs or none."""
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


def _memory(later: list[Fact], visible: int, rng: np.random.Generator) -> list[Fact]:
    kinds = ("person", "relation", "place", "thing", "weather")
    usable = [fact for fact in later if fact.kind in kinds]
    near = [fact for fact in usable if fact.start < visible + NEAR]
    return _some(near, 3, rng) + (_some(usable, 2, rng) if rng.random() < 0.4 else [])


def _lore(later: list[Fact], seen: str, rng: np.random.Generator) -> list[tuple[LoreEntry, list[Fact]]]:
    """Make lore entries of facts that come later, each with its facts.

    The entries are about subjects that the visible text names. If it names none, they are constant entries
    about the first facts.
    """
    told = [f for f in later if f.kind in ("person", "relation", "place", "thing")]
    named = [f for f in told if f.subject in seen] or told[:2]  # else constant entries, of what comes next
    entries = []
    for fact in _some(named, 2, rng):
        facts = [fact, *[f for f in named if f.subject == fact.subject and f is not fact][:1]]
        content = " ".join(_says(f, rng) for f in facts)
        constant = fact.subject not in seen
        entries.append((LoreEntry(keywords=(fact.subject,), content=content, constant=constant), facts))
    return entries


def _note(near: list[Fact], rng: np.random.Generator) -> tuple[str, list[Fact]]:
    kinds = ("event", "weather", "tone", "thing", "tone", "person", "relation")
    kind = kinds[int(rng.integers(len(kinds)))]
    chosen = _some([f for f in near if f.kind == kind] or near, 1, rng)
    if not chosen:
        return "", []
    says = _says(chosen[0], rng)
    form = rng.random()
    if chosen[0].kind == "event" and form < 0.5:
        return f"{('Next', 'In the next scene', 'What happens next')[int(6 * form)]}: {says}", chosen
    return (says.rstrip(".") if form > 0.85 else says), chosen


def _woven(telling: _Telling, story: PreparedStory, rng: np.random.Generator) -> str:
    """Weave a made-up fact into the text after its visible part; return how a writer says the fact.

    Returns an empty string if the text has no place for it.
    """
    text, visible = telling.text, telling.visible
    people = {name: gender for name, gender in story.people.items() if gender}
    first = {name: text.text.find(name) for name in people}
    named = [name for name in people if 0 <= first[name] < visible + NEXT // 2]
    name = min(named, key=lambda name: (first[name] >= visible, -text.text.count(name)), default=None)
    fact = weave(None if name is None else Person(name, people[name]), rng)
    start = visible if name is None else max(visible, first[name] + len(name))
    places = _between_sentences(text.text, start, start + 2 * NEXT)
    if not places:
        return ""
    chosen = [places[int(rng.integers(max(1, bisect_left(places, start + NEXT // 2))))]]
    later = [place for place in places if place > chosen[0]]
    number = min(len(later), int(rng.integers(len(fact.shows))))
    chosen += sorted(later[i] for i in rng.permutation(len(later))[:number])
    for place, shown in reversed(list(zip(chosen, fact.shows, strict=False))):
        text = text.insert(place, " " + shown)
        telling.last += len(shown) + 1
    telling.text = text
    telling.last = max(telling.last, chosen[-1] + sum(map(len, fact.shows)))
    return fact.says


def _between_sentences(text: str, start: int, end: int) -> list[int]:
    """Return the indices after sentences of narration; skip paragraphs with quotation marks."""
    places, at = list[int](), 0
    for paragraph in text.split("\n\n"):
        if at > end:
            break
        if not re.search(r"[“”\"]", paragraph):
            for found in re.finditer(r"(?<![A-Z])[a-z’']{2,}[.!?](?=\s|\Z)", paragraph):
                place = at + found.end()
                if start < place <= end and place < len(text):  # a story keeps its last sentence
                    places.append(place)
        at += len(paragraph) + 2
    return places


def _wish(telling: _Telling, is_ending: bool, rng: np.random.Generator) -> bool:
    """Add to the guidance a wish that the text fulfills: for its length, or for its end.

    Returns whether there is such a wish: none for the length of a text that has long begun.
    """
    text, visible, note = telling.text.text, telling.visible, telling.note
    if is_ending:
        says = wishes.ending(len(_WORDS.findall(text[visible:])), rng)
    elif visible <= 900:
        says = wishes.length(len(_WORDS.findall(text)), rng)
    else:
        return False
    if rng.random() < 0.2:
        telling.memory.append(says)
    else:
        telling.note = f"{note} {says}" if note and rng.random() < 0.4 else says
    return True


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
        parts += [text[place:start], Marked.plain(name, int(text.weights[start]))]
        place = end
    return Marked.join(*parts, text[place:])
