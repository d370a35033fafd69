"""ModelHolder: the one engine of this process, made once for everybody; resident, if it runs here."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Protocol

from jet.api import Engine
from jet.engine.progress import LOADING


class EngineHandle(Protocol):
    """Where the page gets its engine from: the holder of the one resident model."""

    @property
    def ready(self) -> bool:
        """Whether `engine()` returns at once."""
        ...

    @property
    def progress(self) -> str | None:
        """How far the loading is, in words; None if there is nothing to say."""
        ...

    def engine(self) -> Engine:
        """The resident engine; waits while the model is being loaded. Raises what loading raised."""
        ...


class EngineConfig(Protocol):
    """Which engine to have. Choices are compared: equal ones mean the same engine."""

    def create(self) -> Engine:
        """Make it. Raises an error with a message for people."""
        ...


@dataclass(frozen=True)
class _ModelHandle:
    """A config of engine and the holder to get it from: what a page needs."""

    holder: ModelHolder
    config: EngineConfig

    @property
    def ready(self) -> bool:
        """Whether `engine()` returns at once."""
        return self.holder.has(self.config)

    @property
    def progress(self) -> str | None:
        """How far the loading is, in words; None if there is nothing to say."""
        return LOADING.said

    def engine(self) -> Engine:
        """The resident engine; waits while the model is being loaded. Raises what loading raised."""
        return self.holder.engine(self.config)


class ModelHolder:
    """Loads a model when it is first asked for, and keeps it.

    Whoever asks for the same model gets the same engine, however many ask at once. Whoever asks for
    another has the one that is there closed first, since memory seldom holds two. A load that failed, or
    an engine that has died, is tried again when it is asked for again.
    """

    def __init__(self, create: Callable[[EngineConfig], Engine] | None = None) -> None:
        """`create` makes engines in place of the choices, for tests."""
        self._create = create or (lambda config: config.create())
        self._lock = threading.Lock()
        self._held: _LoadAttempt | None = None

    def handle(self, config: EngineConfig) -> _ModelHandle:
        """This config, to be loaded when somebody needs it."""
        return _ModelHandle(self, config)

    def has(self, config: EngineConfig) -> bool:
        """Whether this config is loaded and running."""
        held = self._held
        return held is not None and held.config == config and held.running

    def engine(self, config: EngineConfig) -> Engine:
        """The engine for this config; waits while it is being loaded. Raises what loading raised."""
        with self._lock:
            before = held = self._held
            if held is None or held.config != config or held.lost:
                self._held = held = _LoadAttempt(config)
        if held is not before:
            if before is not None:
                wait([before.future])
                before.close()
            held.load(self._create)
        return held.future.result()

    def close(self) -> None:
        """Close the engine that is there, or that is being loaded as soon as it is."""
        with self._lock:
            held, self._held = self._held, None
        if held is not None:
            held.close()


class _LoadAttempt:
    """One attempt to load one model."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.future: Future[Engine] = Future()

    @property
    def running(self) -> bool:
        return self.future.done() and self.future.exception() is None and self.future.result().alive

    @property
    def lost(self) -> bool:
        return self.future.done() and not self.running

    def load(self, create: Callable[[EngineConfig], Engine]) -> None:
        try:
            self.future.set_result(create(self.config))
        except BaseException as error:
            self.future.set_exception(error)

    def close(self) -> None:
        self.future.add_done_callback(_close)


def _close(future: Future[Engine]) -> None:
    if future.exception() is None:
        future.result().close()


# The holder of this process. Python must not end under a thread that is inside of torch.
MODEL_HOLDER = ModelHolder()
atexit.register(MODEL_HOLDER.close)
