"""The end of the page: told by a signal, it takes no more stories and lets those that are written end."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType

from jet.server.limits import Gate

GRACE_S = 30.0  # how long stories may go on; containers are usually given as long before they are killed
FLUSH_S = 0.5  # for the last words to reach their readers
_POLL_S = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Ending:
    """Hears SIGINT and SIGTERM inside its `with`, in the main thread. Before `wait` they interrupt."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._waiting = False
        self._told = threading.Event()
        self._hurried = threading.Event()

    def __enter__(self) -> Ending:
        self._before = {number: signal.signal(number, self._hear) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wait(self) -> int:
        """Until a signal comes; then no more stories begin. Returns how many are being written."""
        self._waiting = True
        while not self._told.wait(_POLL_S):
            pass
        self._gate.close()
        return self._gate.writing

    def let_end(self, grace_s: float = GRACE_S) -> int:
        """Until all stories have ended, their time is over, or another signal comes; how many are left."""
        until = time.monotonic() + grace_s
        had_any = self._gate.writing > 0
        while self._gate.writing and time.monotonic() < until and not self._hurried.wait(_POLL_S):
            pass
        if had_any and not self._hurried.is_set():
            self._hurried.wait(FLUSH_S)
        return self._gate.writing

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if not self._waiting:
            raise KeyboardInterrupt
        if self._told.is_set():
            self._hurried.set()
        self._told.set()
