"""MemoryBandwidth: measures this machine's memory bandwidth repeatedly.

A busy machine makes a measurement slower, never faster, so the fastest of all measurements counts. It is
confirmed once a second measurement reaches the fraction `NEAR` of it.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Protocol

from jet.api import EngineInfo

NEAR = 0.9  # fraction of the fastest that a second measurement must reach to confirm it
PAUSES_S = (2.0, 10.0, 60.0, 300.0, 900.0)  # between measurements
_POLL_S = 1.0  # between checks whether a busy engine is idle

Facts = dict[str, float | bool | None]


class MeasuredEngine(Protocol):
    """An engine whose info can be updated with measurements."""

    @property
    def alive(self) -> bool:
        """Return whether requests are accepted."""
        ...

    def info(self) -> EngineInfo:
        """Return the engine's properties and load."""
        ...

    def update_info(self, facts: Facts) -> None:
        """Replace these fields of the `EngineInfo` that `info()` returns from now on."""
        ...


class MemoryBandwidth:
    """Bandwidth measurements of one machine, in bytes per second."""

    def __init__(self, measure: Callable[[], float]) -> None:
        self._measure = measure
        self._rates: list[float] = []

    def measure(self) -> Facts:
        """Measure once more; return `bandwidth` and `bandwidth_confirmed` for `EngineInfo`."""
        self._rates.append(self._measure())
        best, *others = sorted(self._rates, reverse=True)
        return {"bandwidth": best, "bandwidth_confirmed": bool(others) and others[0] >= NEAR * best}

    def watch(
        self,
        engine: MeasuredEngine,
        pauses_s: Sequence[float] = PAUSES_S,
        sleep: Callable[[float], object] = time.sleep,
    ) -> threading.Thread:
        """Start and return a thread that measures after each pause, once the engine is idle.

        The thread updates the engine's info after each measurement, and ends early if the engine is closed.
        `pauses_s` are in seconds.
        """
        thread = threading.Thread(
            target=self._watch, args=(weakref.ref(engine), pauses_s, sleep), name="jet-bandwidth", daemon=True
        )
        thread.start()
        return thread

    def _watch(
        self,
        engine: Callable[[], MeasuredEngine | None],
        pauses_s: Sequence[float],
        sleep: Callable[[float], object],
    ) -> None:
        for pause in pauses_s:
            sleep(pause)
            while (idle := _is_idle(engine())) is False:
                sleep(_POLL_S)
            if idle is None:
                return
            facts = self.measure()  # a request during the copy only slows it, which is harmless
            if (found := engine()) is None:
                return
            found.update_info(facts)
            del found  # or a closed engine would stay in memory for the pause


def _is_idle(engine: MeasuredEngine | None) -> bool | None:
    """Return whether the engine is idle; None if it is closed or has been garbage collected."""
    if engine is None or not engine.alive:
        return None
    info = engine.info()
    return not info.active_requests and not info.queued_requests
