"""Compute the changed regions between two texts in linear time.

A keystroke, a paste or a deletion changes one region: the one between the common prefix and suffix. For
changes in many places, such as a replaced name, units (first lines, then words) that occur exactly once in
both texts are anchors, and the gaps between anchors are compared in the same way. Each level takes linear
time, and the number of levels is fixed. A region may be larger than necessary.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from itertools import pairwise
from typing import NamedTuple

from jet.affixes import common_prefix, common_suffix

_LEVELS = (
    re.compile(r"[^\n]*\n|[^\n]+"),  # lines
    *[re.compile(r"\w+|\s+|[^\w\s]")] * 3,  # words, unique in ever smaller surroundings
)
_MIN_UNCHANGED = (
    12  # characters: fewer that two changes have between them are no sign of a text being the same
)


class Change(NamedTuple):
    """Replace the old text from `start` up to `end` (exclusive) by `text`."""

    start: int
    end: int
    text: str


def changes(old: str, new: str) -> list[Change]:
    """Return the changes that turn `old` into `new`, in order and disjoint; offsets are those of `old`."""
    found: list[Change] = []
    for change in _changes(old, new, 0, 0):
        if found and change.start - found[-1].end < _MIN_UNCHANGED:
            start, end, text = found.pop()
            change = Change(start, change.end, text + old[end : change.start] + change.text)
        found.append(change)
    return found


def _changes(old: str, new: str, at: int, level: int) -> list[Change]:
    """Compute `changes` for a gap whose old text begins at offset `at`."""
    prefix = common_prefix(old, new)
    at, old, new = at + prefix, old[prefix:], new[prefix:]
    if suffix := common_suffix(old, new):
        old, new = old[:-suffix], new[:-suffix]
    if not old or not new or level == len(_LEVELS):
        return [Change(at, at + len(old), new)] if old or new else []
    anchors = [(0, 0, 0), *_anchors(old, new, _LEVELS[level]), (len(old), len(new), 0)]
    found: list[Change] = []
    for (old_at, new_at, length), (old_end, new_end, _) in pairwise(anchors):
        old_start, new_start = old_at + length, new_at + length
        if old_start < old_end or new_start < new_end:
            gap_old, gap_new = old[old_start:old_end], new[new_start:new_end]
            found += _changes(gap_old, gap_new, at + old_start, level + 1)
    return found


def _anchors(old: str, new: str, unit: re.Pattern[str]) -> list[tuple[int, int, int]]:
    """Return the units that occur once in each text, in the same order: (old offset, new offset, length)."""
    places = {text: start for text, start in _unique_units(new, unit).items() if not text.isspace()}
    both = [
        (start, places[text], len(text)) for text, start in _unique_units(old, unit).items() if text in places
    ]
    # The longest increasing run of the second offsets: the last of each length, and who came before whom.
    ends: list[int] = []
    chain: list[int] = []
    before: list[int] = []
    for index, (_, place, _) in enumerate(both):
        rank = bisect_left(ends, place)
        before.append(chain[rank - 1] if rank else -1)
        ends[rank : rank + 1] = [place]
        chain[rank : rank + 1] = [index]
    found: list[tuple[int, int, int]] = []
    index = chain[-1] if chain else -1
    while index >= 0:
        found.append(both[index])
        index = before[index]
    return found[::-1]


def _unique_units(text: str, unit: re.Pattern[str]) -> dict[str, int]:
    """Return unit → offset for the units that occur exactly once in the text."""
    units = [(match.group(), match.start()) for match in unit.finditer(text)]
    counts = Counter(found for found, _ in units)
    return {found: start for found, start in units if counts[found] == 1}
