"""GracefulShutdown: after a signal, admits no further stories and lets running ones end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from jet.server.limits import AdmissionLimiter

GRACE_S = 30.0  # how long stories may go on; containers are usually given as long before they are killed
FLUSH_S = 0.5  # for the last words to reach their readers
_POLL_S = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class GracefulShutdown:
    """Handles SIGINT and SIGTERM as a context manager, in the main thread.

    Before `wait` is called, the signals raise KeyboardInterrupt: at once, or at the end of `held`.
    """

    def __init__(self, limiter: AdmissionLimiter) -> None:
        self._limiter = limiter
        self._accepting_signals = self._holding = False
        self._requested = threading.Event()
        self._forced = threading.Event()

    def __enter__(self) -> GracefulShutdown:
        self._before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep signals until the end of the block, and raise KeyboardInterrupt there if one came.

        For steps that must not end half-way: a server that runs and cannot be closed yet.
        """
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._requested.is_set():
            raise KeyboardInterrupt

    def wait(self) -> int:
        """Wait for a signal, then stop admitting stories; return the number of running ones."""
        self._accepting_signals = True
        while not self._requested.wait(_POLL_S):
            pass
        self._limiter.close()
        return self._limiter.active

    def drain(self, grace_s: float = GRACE_S) -> int:
        """Wait for all stories to end.

        Returns the number of stories left after `grace_s` or another signal.
        """
        deadline = time.monotonic() + grace_s
        had_active = self._limiter.active > 0
        while self._limiter.active and time.monotonic() < deadline and not self._forced.wait(_POLL_S):
            pass
        if had_active and not self._forced.is_set():
            self._forced.wait(FLUSH_S)
        return self._limiter.active

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._accepting_signals and not self._holding:
            raise KeyboardInterrupt
        if self._requested.is_set():
            self._forced.set()
        self._requested.set()
