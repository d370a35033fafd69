"""Find the people of a story by rules: words with a capital letter that speak, feel, or own something."""

from __future__ import annotations

import re
from collections import Counter

from scripts.training.names import BY_GENDER
from scripts.training.words import read_list

PERSON_VERBS = (
    "said|asked|replied|whispered|answered|called|cried|shouted|exclaimed|smiled|laughed|nodded|looked|felt|knew|"
    "thought|wondered|stood|sat|walked|ran|turned|stepped|took|had|was|could|decided|loved|wanted|found|grinned|"
    "sighed|noticed|realized|remembered|began|gasped|watched|held|lived|worked|sighed|frowned|shook|pressed|spoke"
)
NO_NAMES = frozenset(read_list("no_names"))
# "Mykola took her hand": what is not the subject says less.
PRONOUNS = {
    "she": ("f", 1.0), "her": ("f", 0.5), "hers": ("f", 0.5), "herself": ("f", 1.0),
    "he": ("m", 1.0), "him": ("m", 0.5), "his": ("m", 0.5), "himself": ("m", 1.0),
}  # fmt: skip
_WORD = re.compile(r"[^\W\d_]+(?:['’][a-z]+)?")
_ACTS = re.compile(
    rf"(?<![\w’'-])([A-Z][a-zà-ÿ]+)"
    rf"(?:['’]s (?=[a-z])|,? (?:{PERSON_VERBS})\b|(?= [A-Z][a-zà-ÿ]+ (?:{PERSON_VERBS})\b))"
)
_SAID = re.compile(
    r"\b(?:said|asked|replied|whispered|answered|exclaimed|named|called|cried) ([A-Z][a-zà-ÿ]+)\b"
)
FEWEST = 3  # mentions of a person, of which two by an act


def find_people(text: str) -> dict[str, str]:
    """Return the gender, "f", "m" or "" (unknown), of each person, the most frequent one first.

    A person is a single capitalized word that never appears in lower case, such as a given name.
    """
    acts = Counter(_ACTS.findall(text))
    acts.update(_SAID.findall(text))
    words = Counter(re.findall(r"(?<![\w’'-])[^\W\d_]+", text))
    people = {}
    for name, number in acts.most_common(12):
        if number < 2 or name in NO_NAMES or words[name] < FEWEST or words[name.lower()]:
            continue
        if re.search(rf"\b(?:the|The) {name}\b(?!['’]s)", text) or _is_place(name, text):
            continue
        people[name] = _gender(name, text)
    return people


def _is_place(name: str, text: str) -> bool:
    where = len(re.findall(rf"\b(?:in|of|to|from|at|near|across|through) {name}\b(?!['’]s)", text))
    return where > 0.5 * len(re.findall(rf"\b{name}\b", text))


def _gender(name: str, text: str) -> str:
    """Judge by a list of names, else by the pronouns that follow the mentions; return "" if unsure."""
    for gender, names in BY_GENDER.items():
        if name in names:
            return gender
    votes = {"f": float(name.endswith("a")), "m": 0.0}
    for found in re.finditer(rf"\b{name}\b", text):
        for word in _WORD.findall(text[found.end() : found.end() + 140]):
            if (small := word.lower()) in PRONOUNS:
                gender, weight = PRONOUNS[small]
                votes[gender] += weight
                break
            if word[0].isupper() and word not in NO_NAMES:
                break
    gender = max(votes, key=lambda gender: votes[gender])
    return gender if votes[gender] >= max(2, 3 * min(votes.values())) else ""
