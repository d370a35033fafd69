"""Judge continuations of stories by simple rules. Plain functions of text, without a model.

A reader can apply each rule with a pencil; `docs/evaluation.md` states them all. If a rule does not apply to
a text (a story without a named person, too few verbs to tell a tense), its function returns None, and the
text is not counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from random import Random
from statistics import fmean

from jet.evaluate.text import (
    FIRST_PERSON,
    PAST_VERBS,
    PRESENT_VERBS,
    PRONOUNS,
    THIRD_PERSON,
    content_words,
    first_words,
    grams,
    headings,
    last_half,
    last_named,
    mentions,
    narration,
    people,
    stem,
    words,
)

LEAST_EVIDENCE = 4  # pronouns or verbs from which on person and tense are judged
FIRST_PERSON_SHARE = 1 / 3  # of a third-person story's pronouns, from which on its person has switched
LOST_NARRATOR_SHARE = 0.1  # of a first-person story's pronouns, below which its narrator is gone
GRAM = 4
_ENDINGS = (
    *(("s", ""), ("es", ""), ("ies", "y"), ("ed", ""), ("ed", "e"), ("ied", "y"), ("ing", ""), ("ing", "e")),
    *(("ly", ""), ("y", ""), ("er", ""), ("er", "e"), ("est", ""), ("ness", ""), ("less", ""), ("like", "")),
)
_BEGINNINGS = ("un", "re", "over", "out", "mis", "under")
_SPELLINGS = (  # British, American
    *(("our", "or"), ("is", "iz"), ("ys", "yz"), ("ll", "l"), ("re", "er"), ("ae", "e"), ("ogue", "og")),
)


@dataclass(frozen=True)
class Opening:
    """The beginning of a story, with the facts by which its continuations are judged.

    Attributes:
        id: its name in tables.
        text: the text that the model continues.
        names: the names of its main person; () if no person has a name.
        also_word: whether such a name is also a word, like Will.
        pronoun: the main person's pronoun: "he", "she", "they" or "it".
        person: the grammatical person of the narration: "first" or "third".
        tense: the tense of the narration: "past", "present", or None if it mixes them.
    """

    id: str
    text: str
    names: tuple[str, ...] = ()
    also_word: bool = False
    pronoun: str = ""
    person: str = "third"
    tense: str | None = "past"


def person_is_there(opening: Opening, continuation: str) -> bool | None:
    """Return whether the opening's main person occurs in the second half of the continuation.

    A pronoun of the person is enough, unless the person named last in the continuation is another one.
    Returns None if the opening names no person.
    """
    if not opening.names:
        return None
    half = last_half(continuation)
    if any(mentions(half, name, opening.also_word) for name in opening.names):
        return True
    has_pronoun = any(word.lower() in PRONOUNS[opening.pronoun] for word in words(half))
    return has_pronoun and last_named(continuation) in {"", *_parts(opening)}


def person_leads(opening: Opening, continuation: str) -> bool | None:
    """Return whether the main person occurs in the second half, named at least as often as any other person.

    Returns None if the opening names no person.
    """
    there = person_is_there(opening, continuation)
    if not there:
        return there
    half = last_half(continuation)
    others = [count for name, count in people(half).items() if name not in _parts(opening)]
    named = max(mentions(half, name, opening.also_word) for name in opening.names)
    return named >= max(others, default=0)


def _parts(opening: Opening) -> set[str]:
    return {part for name in opening.names for part in name.split()}


def person_switched(opening: Opening, continuation: str) -> bool:
    """Return whether the narration has changed its grammatical person, as a whole or in its second half.

    A third-person story has switched if at least `LEAST_EVIDENCE` and at least a third of its personal
    pronouns are of the first person. A first-person story has switched if it has at least `LEAST_EVIDENCE`
    personal pronouns, and less than a tenth of them are of the first person.
    """
    told = narration(continuation)
    return any(_person_switched(opening.person, part) for part in (told, last_half(told)))


def _person_switched(person: str, told: str) -> bool:
    plain = [re.split(r"[’']", word.lower())[0] for word in words(told)]
    first = sum(word in FIRST_PERSON for word in plain)
    everybody = first + sum(word in THIRD_PERSON for word in plain)
    if person == "third":
        return first >= LEAST_EVIDENCE and first / everybody >= FIRST_PERSON_SHARE
    return everybody >= LEAST_EVIDENCE and first / everybody < LOST_NARRATOR_SHARE


def tense_switched(opening: Opening, continuation: str) -> bool | None:
    """Return whether most verbs of the narration, or of its second half, are in the other tense.

    Returns None if the opening mixes tenses or there are too few verbs.
    """
    if opening.tense is None:
        return None
    told = narration(continuation)
    tenses = {tense_of(part) for part in (told, last_half(told))} - {None}
    return any(tense != opening.tense for tense in tenses) if tenses else None


def tense_of(told: str) -> str | None:
    """Return the tense of a narration, by verbs with different past and present forms.

    Returns None if there are too few such verbs.
    """
    plain = [word for word in words(told) if word.islower()]
    past, present = (sum(word in verbs for word in plain) for verbs in (PAST_VERBS, PRESENT_VERBS))
    return None if past + present < LEAST_EVIDENCE else "present" if present > past else "past"


def adds_chapter(opening: Opening, continuation: str) -> bool:
    """Return whether the continuation has a heading of a chapter or part, and the opening has none."""
    return not headings(opening.text) and bool(headings(continuation))


@lru_cache(maxsize=256)
def premise_words(opening: Opening) -> frozenset[str]:
    """Return the stems of the words that carry an opening's subject, without the main person's names."""
    return content_words(opening.text) - {stem(part) for part in _parts(opening)}


def premise_kept(opening: Opening, continuation: str) -> float | None:
    """Return the fraction of an opening's subject words that occur in the continuation, in any form.

    Returns None if the opening has no subject words.
    """
    return _share(premise_words(opening), content_words(continuation))


def _share(wanted: frozenset[str], found: frozenset[str]) -> float | None:
    return len(wanted & found) / len(wanted) if wanted else None


def premise_of_others(openings: Sequence[Opening], own: Opening, continuation: str) -> float:
    """Return the mean fraction of the other openings' subject words that occur in a continuation.

    This is the fraction by chance, to compare with `premise_kept`.
    """
    found = content_words(continuation)
    shares = (_share(premise_words(other), found) for other in openings if other.id != own.id)
    return fmean(share for share in shares if share is not None)


def count_matches(patterns: Iterable[str], text: str) -> int:
    """Return the number of matches of any of the patterns in a text, as whole words in any case."""
    return sum(1 for _ in _compiled(tuple(patterns)).finditer(text.replace("’", "'")))


@lru_cache(maxsize=256)
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(patterns)})\b", re.IGNORECASE)


def per_thousand_words(patterns: Sequence[str], texts: Sequence[str]) -> float:
    """Return the matches of the patterns per 1,000 words of all texts together."""
    return 1000 * sum(count_matches(patterns, text) for text in texts) / max(1, sum(map(_length, texts)))


def distinct_grams(texts: Iterable[str], size: int = GRAM) -> float:
    """Return the number of distinct runs of `size` words of all texts, divided by the number of all runs.

    It is 1 if no run repeats.
    """
    counts = Counter(gram for text in texts for gram in grams(text, size))
    return len(counts) / max(1, counts.total())


def distinct_within(texts: Sequence[str], size: int = GRAM) -> float:
    """Return the mean of `distinct_grams` over single texts."""
    return fmean([distinct_grams([text], size) for text in texts] or [0.0])


def samples_like(texts: Sequence[str], documents: Sequence[str], seed: int = 0) -> list[str]:
    """Return samples of documents, each with as many words as one of `texts` and beginning at a paragraph.

    A document that is too short for a text is skipped. If all are too short, there is no sample for the text.
    """
    chance = Random(seed)
    order = list(documents)
    chance.shuffle(order)
    pieces: list[str] = []
    for number, text in enumerate(texts):
        wanted = _length(text)
        for document in order[number % len(order) :] + order[: number % len(order)]:
            starts = [0, *(found.end() for found in re.finditer(r"\n\n", document))]
            enough = [start for start in starts if _length(document[start:]) >= wanted]
            if enough:
                pieces.append(first_words(document[chance.choice(enough) :], wanted))
                break
    return pieces


def _length(text: str) -> int:
    return len(words(text))


@cache
def dictionary() -> Callable[[str], bool] | None:
    """Return a function that tells whether a word is in pyspellchecker's English list.

    Returns None if the package is not installed.
    """
    if find_spec("spellchecker") is None:
        return None
    from spellchecker import SpellChecker  # an extra

    known = SpellChecker(language="en", distance=1)
    return lambda word: word in known


def non_words(text: str, is_word: Callable[[str], bool], given: str = "") -> list[str]:
    """Return the non-words of a text: words of which no form is in the dictionary or in the text `given`.

    These are not counted as non-words: capitalized words, which are taken for names, words with letters other
    than a to z, compounds with or without a hyphen, and words with usual prefixes and endings. Of single
    letters, only a, i and o are words.
    """
    passed = {word.lower() for word in words(given)}
    names = {re.split(r"[’']", word)[0].lower() for word in words(text) if word[:1].isupper()}
    found = []
    for word in words(text):
        plain = re.sub(r"(?:n't|'(?:s|d|ll|ve|re|m|em)?)$", "", word.replace("’", "'"))
        parts = [part for part in re.split(r"[-']", plain) if part]
        if not plain.isascii() or not plain.islower():
            continue
        if not all(part in passed or part in names or _is_form(part, is_word) for part in parts):
            found.append(word)
    return found


def _is_form(word: str, is_word: Callable[[str], bool]) -> bool:
    """Return whether a word or one of its usual forms is in a dictionary, or is two such words together."""
    bases = {word}
    for ending, instead in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            stem = word[: -len(ending)]
            bases |= {stem + instead, stem[:-1] if stem[-1] == stem[-2] else stem + instead}
    for beginning in _BEGINNINGS:
        bases |= {base.removeprefix(beginning) for base in set(bases) if len(base) - len(beginning) >= 3}
    for british, american in _SPELLINGS:
        bases |= {base.replace(british, american) for base in set(bases)}
    if len(word) == 1:
        return word in "aio"
    if any(map(is_word, bases)):
        return True
    cuts = range(4, len(word) - 3)
    return any(is_word(word[:cut]) and is_word(word[cut:]) for cut in cuts)
