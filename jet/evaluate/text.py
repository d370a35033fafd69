"""Parse English prose: words, sentences, narration without dialogue, stems, names, headings."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_WORD = re.compile(r"[^\W\d_]+(?:[’'\-][^\W\d_]+)*")
_SENTENCE_BREAK = re.compile(r"(?<=[.!?…])(?<!Mr\.)(?<!Mrs\.)(?<!Ms\.)(?<!Dr\.)(?<!St\.)[\"”’')\]*]*\s+|\n+")
_CLOSING = {"“": "”", '"': '"', "‘": "’"}
_THOUGHT = re.compile(r"(?<![\w*])\*(?=\S)[^*\n]+(?<=\S)\*(?![\w*])|(?<!\w)_(?=\S)[^_\n]+(?<=\S)_(?!\w)")
_NUMBER = r"(?:\d+|[ivxlc]+|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|the \w+)"
_HEADING = re.compile(
    rf"[#*_\s]*(?:(?:chapter|part)\s+{_NUMBER}\b[^\n]{{0,80}}|(?:prologue|epilogue)\b[^\n]{{0,60}})",
    re.IGNORECASE,
)
_SUFFIXES = ("ing", "ed", "es", "ly", "s")


_ENGLISH = json.loads(Path(__file__).with_name("english.json").read_text(encoding="utf-8"))


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


FIRST_PERSON, THIRD_PERSON = _set(_ENGLISH["first_person"]), _set(_ENGLISH["third_person"])
PRONOUNS = {name: _set(forms) for name, forms in _ENGLISH["pronouns"].items()}
# Forms that are hardly ever nouns or adjectives, and differ between the tenses.
PAST_VERBS, PRESENT_VERBS = _set(_ENGLISH["past_verbs"]), _set(_ENGLISH["present_verbs"])
_ACTIONS = (PAST_VERBS | PRESENT_VERBS | _set(_ENGLISH["more_actions"])) - _set(_ENGLISH["not_actions"])
_SPEAKING = _set(_ENGLISH["speaking"])
_NO_NAMES = _set(_ENGLISH["no_names"])
STOP_WORDS = _set(_ENGLISH["stop_words"])


def words(text: str) -> list[str]:
    """Return the words of a text unchanged; apostrophes and hyphens within a word belong to it."""
    return [found.group() for found in _WORD.finditer(text)]


def first_words(text: str, number: int) -> str:
    """Return a text up to the end of its first `number` words; all of it if it has fewer."""
    for index, found in enumerate(_WORD.finditer(text), start=1):
        if index == number:
            return text[: found.end()]
    return text


def last_half(text: str) -> str:
    """Return the second half of a text, by words."""
    found = list(_WORD.finditer(text))
    return text[found[len(found) // 2].start() :] if found else ""


def narration(text: str) -> str:
    """Return a text without quotations and without thoughts between asterisks or underscores.

    A quotation that is not closed ends with its paragraph. A single typographic quote opens a quotation only
    if no letter precedes it, and closes one only if no letter follows it.
    """
    return "\n".join(_without_quotations(_THOUGHT.sub(" ", line)) for line in text.split("\n"))


def _without_quotations(line: str) -> str:
    kept: list[str] = []
    closing = ""
    for index, character in enumerate(line):
        before, after = line[index - 1 : index], line[index + 1 : index + 2]
        if closing:
            if character == closing and not (character == "’" and after.isalpha()):
                closing = ""
            continue
        opens = character in _CLOSING and not (character == "‘" and before.isalpha())
        if opens and not (character == "‘" and "’" not in line[index:]):
            closing = _CLOSING[character]
            kept.append(" ")
        else:
            kept.append(character)
    return "".join(kept)


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, roughly: it is split at ends of sentences and at line breaks."""
    return [piece for piece in _SENTENCE_BREAK.split(text) if piece.strip()]


def stem(word: str) -> str:
    """Return the stem of a word, which inflected forms such as "clocks" and "clock" share."""
    word = re.sub(r"[’'](?:s|d|ll|ve|re|t|m)?$", "", word.lower())
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3 and not word.endswith("ss"):
            word = word[: -len(suffix)]
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
        word = word[:-1]
    word = word[:-1] if len(word) > 3 and word.endswith("e") else word
    return word[:-1] + "i" if len(word) > 3 and word.endswith("y") else word


def content_words(text: str) -> frozenset[str]:
    """Return the stems of the words that carry a text's subject.

    These are words of four letters or more, except function words and words that are capitalized within a
    sentence.
    """
    found = set()
    for sentence in sentences(text):
        for index, word in enumerate(words(sentence)):
            plain = re.sub(r"[’']s$", "", word)
            if len(plain) >= 4 and plain.lower() not in STOP_WORDS and not (index and plain[:1].isupper()):
                found.add(stem(plain))
    return frozenset(found)


def mentions(text: str, name: str, also_word: bool = False) -> int:
    """Return how often a name occurs with exactly this capitalization.

    `also_word`: whether the name is also a word, like Will or Grace. At the beginning of a sentence or
    quotation, such a name counts only before a verb of action ("Grace opened") or with 's.
    """
    if not also_word:
        return len(re.findall(rf"(?<!\w){re.escape(name)}(?!\w)", text))
    found = [one for one in _capitalized(text) if one.name == name]
    return sum(not one.begins or one.possessive or _is_action(one.following) for one in found)


def people(text: str) -> Counter[str]:
    """Count the mentions of people's names: capitalized words that act or speak somewhere in the text.

    Such a word is directly before a verb of action or after a verb of speaking. A word that occurs only at
    the beginning of sentences must occur there twice.
    """
    found = _possible_names(text)
    counts = Counter(one.name for one in found)
    acting = {one.name for one in found if _is_action(one.following) or one.before in _SPEAKING}
    within = {one.name for one in found if not one.begins}
    return Counter({name: counts[name] for name in acting if name in within or counts[name] > 1})


def last_named(text: str) -> str:
    """Return the person named last in a text; "" without any name."""
    known = people(text)
    return next((one.name for one in reversed(_possible_names(text)) if one.name in known), "")


def _possible_names(text: str) -> list[_Capitalized]:
    found = _capitalized(text)
    return [
        one for one in found if one.name[1:].islower() and one.name.isalpha() and one.name not in _NO_NAMES
    ]


class _Capitalized(NamedTuple):
    """A capitalized word with its neighbors; `begins`: whether it begins a sentence or quotation."""

    name: str
    possessive: bool
    begins: bool
    before: str
    following: str


def _capitalized(text: str) -> Iterator[_Capitalized]:
    for sentence in sentences(text):
        found = list(_WORD.finditer(sentence))
        for index, one in enumerate(found):
            word = one.group()
            if not word[0].isupper():
                continue
            name = re.sub(r"[’']s$", "", word)
            begins = index == 0 or sentence[one.start() - 1] in '“"‘'
            before = found[index - 1].group().lower() if index else ""
            following = found[index + 1].group() if index + 1 < len(found) else ""
            yield _Capitalized(name, name != word, begins, before, following)


def headings(text: str) -> list[str]:
    """Return the lines that are headings of chapters or parts, prologue or epilogue.

    A line that continues as a sentence ("Chapter two of his book lay open.") or is quoted is no heading.
    """
    return [line.strip() for line in text.split("\n") if _is_heading(line.strip())]


def _is_heading(line: str) -> bool:
    return bool(_HEADING.fullmatch(line)) and not (
        line.rstrip("*_ ").endswith((".", ",", ";")) and len(words(line)) > 3
    )


def _is_action(word: str) -> bool:
    return word in _ACTIONS or (len(word) > 4 and word.endswith("ed") and word.islower())


def grams(text: str, size: int) -> Iterator[tuple[str, ...]]:
    """Yield every run of `size` consecutive words of a text, in lower case."""
    lower = [word.lower() for word in words(text)]
    return zip(*(lower[start:] for start in range(size)), strict=False)
