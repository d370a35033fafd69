"""LoadProgress: the progress of loading a model, in words."""

from __future__ import annotations

import time
from collections.abc import Callable


class LoadProgress:
    """The current loading step in words, set by the loading thread and readable from any thread."""

    def __init__(self) -> None:
        self._said: str | None = None
        self._listeners: list[Callable[[str], object]] = []

    @property
    def said(self) -> str | None:
        """Return the latest message; None if nothing is being loaded."""
        return self._said

    def say(self, words: str | None) -> None:
        """Set the message and pass it to all listeners; None clears the message."""
        self._said = words
        if words is not None:
            for listener in self._listeners:
                listener(words)

    def listen(self, listener: Callable[[str], object]) -> None:
        """Call `listener` with every message from now on."""
        self._listeners.append(listener)


class Transfer:
    """Formats the progress of a download: bytes, total and rate."""

    def __init__(self, what: str, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._total = total
        self._clock = clock
        self._began = (clock(), 0)

    def words(self, done: int) -> str:
        """Return the message for `done` bytes. The rate counts the bytes since the first call."""
        started, before = self._began
        if not before and done:
            self._began = started, before = self._clock(), done
        elapsed = self._clock() - started
        rate = f", {_size((done - before) / elapsed)}/s" if elapsed > 0.5 and done > before else ""
        total = f" of {_size(self._total)} ({min(100, 100 * done // self._total)} %)" if self._total else ""
        return f"Fetching {self._what}: {_size(done)}{total}{rate}"


def _size(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


# The progress of this process, which loads one model at a time.
LOADING = LoadProgress()
