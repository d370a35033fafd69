"""Report how much of a file has been written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Progress = Callable[[float], None]
Item = TypeVar("Item")
_EVERY = 50  # items


def silent(done: float) -> None:
    """Ignore progress. This is the default of functions that report it."""


def watched(
    items: Sequence[Item], progress: Progress, start: float = 0.0, end: float = 1.0
) -> Iterator[Item]:
    """Yield items, and report progress that rises from `start` to `end` as they are done."""
    for number, item in enumerate(items):
        if number % _EVERY == 0:
            progress(start + (end - start) * number / len(items))
        yield item
