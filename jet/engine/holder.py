"""ModelHolder: the one model that stays resident in this process, loaded once for everybody."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass

from jet.engine.engine import LocalEngine
from jet.engine.loading import ModelChoice, build_engine


@dataclass(frozen=True)
class Resident:
    """A choice of model and the holder to get it from: what a page needs."""

    holder: ModelHolder
    choice: ModelChoice

    @property
    def ready(self) -> bool:
        """Whether `engine()` returns at once."""
        return self.holder.has(self.choice)

    def engine(self) -> LocalEngine:
        """The resident engine; waits while the model is being loaded. Raises what loading raised."""
        return self.holder.engine(self.choice)


class ModelHolder:
    """Loads a model when it is first asked for, and keeps it.

    Whoever asks for the same model gets the same engine, however many ask at once. Whoever asks for
    another has the one that is there closed first, since memory seldom holds two. A load that failed, or
    an engine that has died, is tried again when it is asked for again.
    """

    def __init__(self, build: Callable[[ModelChoice], LocalEngine] = build_engine) -> None:
        self._build = build
        self._lock = threading.Lock()
        self._held: _Held | None = None

    def source(self, choice: ModelChoice) -> Resident:
        """This choice, to be loaded when somebody needs it."""
        return Resident(self, choice)

    def has(self, choice: ModelChoice) -> bool:
        """Whether this choice is loaded and running."""
        held = self._held
        return held is not None and held.choice == choice and held.running

    def engine(self, choice: ModelChoice) -> LocalEngine:
        """The engine for this choice; waits while it is being loaded. Raises what loading raised."""
        with self._lock:
            before = held = self._held
            if held is None or held.choice != choice or held.lost:
                self._held = held = _Held(choice)
        if held is not before:
            if before is not None:
                wait([before.future])
                before.close()
            held.load(self._build)
        return held.future.result()

    def close(self) -> None:
        """Close the engine that is there, or that is being loaded as soon as it is."""
        with self._lock:
            held, self._held = self._held, None
        if held is not None:
            held.close()


class _Held:
    """One attempt to load one model."""

    def __init__(self, choice: ModelChoice) -> None:
        self.choice = choice
        self.future: Future[LocalEngine] = Future()

    @property
    def running(self) -> bool:
        return self.future.done() and self.future.exception() is None and self.future.result().alive

    @property
    def lost(self) -> bool:
        return self.future.done() and not self.running

    def load(self, build: Callable[[ModelChoice], LocalEngine]) -> None:
        try:
            self.future.set_result(build(self.choice))
        except BaseException as error:
            self.future.set_exception(error)

    def close(self) -> None:
        self.future.add_done_callback(_close)


def _close(future: Future[LocalEngine]) -> None:
    if future.exception() is None:
        future.result().close()


# The holder of this process. Python must not end under a thread that is inside of torch.
HOLDER = ModelHolder()
atexit.register(HOLDER.close)
