"""How fast memory is here, measured more than once: one copy in a busy moment would say too little for good.

The best of all measurements counts, since whatever disturbs a copy only slows it. It counts as well measured
once another one came near it.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Protocol

from jet.api import EngineInfo

NEAR = 0.9  # of the best: as near another measurement has to come
PAUSES_S = (2.0, 10.0, 60.0, 300.0, 900.0)  # between measurements after the start
_POLL_S = 1.0  # how often an engine that is busy is looked at again

Facts = dict[str, float | bool | None]


class MeasuredEngine(Protocol):
    """An engine that can be told what has been measured since it was made."""

    @property
    def alive(self) -> bool:
        """Whether it takes requests."""
        ...

    def info(self) -> EngineInfo:
        """What runs there."""
        ...

    def update_info(self, facts: Facts) -> None:
        """Tell it of what `EngineInfo` says differently from now on."""
        ...


class MemoryBandwidth:
    """Measurements of one machine, in bytes a second."""

    def __init__(self, measure: Callable[[], float]) -> None:
        self._measure = measure
        self._rates: list[float] = []

    def measure(self) -> Facts:
        """Measure once more. Returns what `EngineInfo` says of all measurements so far."""
        self._rates.append(self._measure())
        best, *others = sorted(self._rates, reverse=True)
        return {"bandwidth": best, "bandwidth_confirmed": bool(others) and others[0] >= NEAR * best}

    def watch(
        self,
        engine: MeasuredEngine,
        pauses_s: Sequence[float] = PAUSES_S,
        sleep: Callable[[float], object] = time.sleep,
    ) -> threading.Thread:
        """Measure again after each of the pauses, as soon as the engine has nothing to do then."""
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
            facts = self.measure()  # a request that came meanwhile has slowed the copy, which does no harm
            if (found := engine()) is None:
                return
            found.update_info(facts)


def _is_idle(engine: MeasuredEngine | None) -> bool | None:
    """Whether it has nothing to do; None if it is no more."""
    if engine is None or not engine.alive:
        return None
    info = engine.info()
    return not info.active_requests and not info.queued_requests
