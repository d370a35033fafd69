"""ModelHolder: keeps the one engine of this process, shared by all users."""

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
    """Gives the page its engine, which may still be loading."""

    @property
    def ready(self) -> bool:
        """Return whether `engine()` returns at once."""
        ...

    @property
    def progress(self) -> str | None:
        """Return the progress of loading in words; None if there is none."""
        ...

    def engine(self) -> Engine:
        """Return the engine, waiting while it is loaded. Raises what loading raises."""
        ...


class EngineConfig(Protocol):
    """The configuration of an engine. Equal configurations share one engine."""

    def create(self) -> Engine:
        """Create the engine. Raises an error with a message for the user."""
        ...


@dataclass(frozen=True)
class _ModelHandle:
    """An engine configuration and the holder that creates its engine."""

    holder: ModelHolder
    config: EngineConfig

    @property
    def ready(self) -> bool:
        """Return whether `engine()` returns at once."""
        return self.holder.has(self.config)

    @property
    def progress(self) -> str | None:
        """Return the progress of loading in words; None if there is none."""
        return LOADING.said

    def engine(self) -> Engine:
        """Return the engine, waiting while it is loaded. Raises what loading raises."""
        return self.holder.engine(self.config)


class ModelHolder:
    """Creates an engine on first use and keeps it.

    Concurrent callers with equal configurations share one engine. Asking for another configuration closes the
    current engine first, since memory seldom holds two. After a failed load or an engine that has died, the
    next call tries again.
    """

    def __init__(self, create: Callable[[EngineConfig], Engine] | None = None) -> None:
        """`create` replaces `EngineConfig.create`, for tests."""
        self._create = create or (lambda config: config.create())
        self._lock = threading.Lock()
        self._held: _LoadAttempt | None = None

    def handle(self, config: EngineConfig) -> _ModelHandle:
        """Return a handle that loads this configuration on first use."""
        return _ModelHandle(self, config)

    def has(self, config: EngineConfig) -> bool:
        """Return whether this configuration is loaded and running."""
        held = self._held
        return held is not None and held.config == config and held.running

    def engine(self, config: EngineConfig) -> Engine:
        """Return the engine of this configuration, waiting while it is loaded. Raises what loading raises."""
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
        """Close the engine; one that is still loading is closed once it is loaded."""
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


# The holder of this process, closed at exit: Python must not end while a thread runs torch.
MODEL_HOLDER = ModelHolder()
atexit.register(MODEL_HOLDER.close)
