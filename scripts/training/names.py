"""Give the people of a story other names, the same ones throughout, so that no name is learned by heart."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np

from scripts.training.words import read_list

BY_GENDER: Mapping[str, tuple[str, ...]] = {"f": read_list("female"), "m": read_list("male")}


def choose_names(
    people: Mapping[str, str], taken: set[str], rng: np.random.Generator, share: float
) -> dict[str, str]:
    """Choose new names for the people of one story, each of the same gender as the old name.

    Args:
        people: gender of each name; only names with "f" or "m" are replaced.
        taken: words that are in the story already and therefore never chosen.
        share: probability that a story gets new names; otherwise the result is empty.
    """
    if rng.random() >= share:
        return {}
    chosen: dict[str, str] = {}
    for name, gender in people.items():
        if gender not in BY_GENDER:
            continue
        names = BY_GENDER[gender]
        for _ in range(8):
            new = names[int(rng.integers(len(names)))]
            if new not in taken and new not in chosen.values():
                chosen[name] = new
                break
    return chosen


class Renamer:
    """Finds whole words to replace in texts of one story; "Ann's" too, but not "Anna"."""

    def __init__(self, names: Mapping[str, str]) -> None:
        """Prepare to replace each key by its value."""
        self._names = names
        words = sorted(map(re.escape, names), key=len, reverse=True)
        self._pattern = re.compile(rf"(?<![\w-])(?:{'|'.join(words)})(?!\w)") if names else None

    def places(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Yield start, end and replacement of every old name in the text."""
        if self._pattern is not None:
            for found in self._pattern.finditer(text):
                yield found.start(), found.end(), self._names[found[0]]
