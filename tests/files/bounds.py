"""Run an operation within bounds of processor time and memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

LONGEST_S = 2.0  # of processor time, for one operation
MOST_BYTES = 200_000_000  # of memory beside what was there before
T = TypeVar("T")


class Bounded:
    """Runs operations, and fails if one takes more than `LONGEST_S` or `MOST_BYTES`.

    Attributes:
        seconds: processor time of the longest operation so far.
        bytes: memory that the largest operation so far has added at its peak.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.bytes = 0

    def __call__(self, operation: Callable[[], T], about: str) -> T:
        """Run an operation, and raise what it raises; `about` is the message if it exceeds a bound."""
        before = reset_peak()
        began = time.thread_time()
        try:
            return operation()
        finally:
            taken, held = time.thread_time() - began, peak() - before
            self.seconds, self.bytes = max(self.seconds, taken), max(self.bytes, held)
            assert taken < LONGEST_S, f"{taken:.1f} s: {about}"
            assert held < MOST_BYTES, f"{held / 1e6:.0f} MB: {about}"


def reset_peak() -> int:
    """Reset the process's peak of memory if Linux allows it; return the peak after that, in bytes."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """Return the most memory that the process has held since the last reset, in bytes."""
    with suppress(OSError):
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split(None, 1)[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
