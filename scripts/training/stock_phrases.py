"""Find stock phrases: runs of four words that many modern stories share and old ones do not.

"The sun dipped below the horizon" is in every third story of a kind. `find_phrases` counts all runs of four
words by the stories that they are in, `PhraseFinder` marks them in a text. Training leaves many of the marks
unlearnt, so that the phrases keep their meaning and lose their frequency.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

LENGTH = 4  # words of a run
MOST_SHARED = 0.05  # share of modern stories from which a run is stock
OFTENER = 8.0  # times as frequent among them as among the others
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case, with straight apostrophes."""
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]


class _Runs:
    """Numbers the words of all texts, and packs each run of four words into one integer."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def of(self, text: str) -> npt.NDArray[np.uint64]:
        numbers = self.numbers
        ids = np.array([numbers.setdefault(word, len(numbers)) for word in words_of(text)], dtype=np.uint64)
        if len(ids) < LENGTH:
            return np.zeros(0, dtype=np.uint64)
        # 16 bits a word: the first 65,535 words, by far the most frequent ones, never collide.
        ids = np.minimum(ids, 0xFFFF)
        runs = np.zeros(len(ids) - LENGTH + 1, dtype=np.uint64)
        for place in range(LENGTH):
            runs = runs << np.uint64(16) | ids[place : place + len(runs)]
        return np.unique(runs)

    def count(self, texts: Iterable[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], int]:
        """Return the distinct runs, the number of texts that contain each, and the number of texts."""
        found, number = [], 0
        for text in texts:
            found.append(self.of(text))
            number += 1
        runs, counts = np.unique(np.concatenate(found or [np.zeros(0, np.uint64)]), return_counts=True)
        return runs, counts, number


def find_phrases(
    modern: Sequence[str], others: Sequence[str], shared: float = MOST_SHARED, oftener: float = OFTENER
) -> list[str]:
    """Return the stock phrases of the modern stories, four words each, the most shared first.

    Args:
        modern: modern stories.
        others: stories that should not have the phrases.
        shared: least share of the modern stories that contain a phrase; three stories are the minimum.
        oftener: a phrase must be more than this many times as frequent in the modern stories as in `others`.
    """
    table = _Runs()
    runs, counts, number = table.count(modern)
    old, old_counts, old_number = table.count(others)
    frequent = counts >= max(3, shared * number)
    runs, counts = runs[frequent], counts[frequent]
    place = np.searchsorted(old, runs).clip(max=max(0, len(old) - 1))
    there = (old[place] == runs) if len(old) else np.zeros(len(runs), np.bool_)
    rate = np.where(there, old_counts[place] if len(old) else 0, 0) / max(1, old_number)
    kept = counts / number > oftener * rate
    order = np.argsort(-counts[kept], kind="stable")
    words = list(table.numbers)
    phrases = []
    for run in runs[kept][order].tolist():
        ids = [run >> 16 * (LENGTH - 1 - place) & 0xFFFF for place in range(LENGTH)]
        if 0xFFFF not in ids:
            phrases.append(" ".join(words[i] for i in ids))
    return phrases


class PhraseFinder:
    """Finds the spans of known phrases in texts."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self._phrases = {tuple(phrase.split()) for phrase in phrases}

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return the spans of all phrases; spans that overlap are joined."""
        found = list(_WORD.finditer(text))
        words = [word[0].lower().replace("’", "'") for word in found]
        spans: list[tuple[int, int]] = []
        for at in range(len(words) - LENGTH + 1):
            if tuple(words[at : at + LENGTH]) not in self._phrases:
                continue
            start, end = found[at].start(), found[at + LENGTH - 1].end()
            if spans and start <= spans[-1][1]:
                start = spans.pop()[0]
            spans.append((start, end))
        return spans
