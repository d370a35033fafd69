"""ModelHolder: keeps the one engine of this process, shared by all users."""

from __future__ import annotations

import atexit
import ctypes
import gc
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from jet.api import Engine
from jet.engine.progress import LOADING


class EngineHandle(Protocol):
    """Gives the page its engine, which may still have to be loaded."""

    @property
    def ready(self) -> bool:
        """Return whether `engine()` returns at once."""
        ...

    @property
    def progress(self) -> str | None:
        """Return the progress of loading in words; None if nothing is being loaded."""
        ...

    def engine(self) -> Engine:
        """Return the engine, and wait while it is loaded. Raises the errors of loading."""
        ...


class EngineConfig(Protocol):
    """The configuration of an engine. Equal configurations share one engine."""

    def create(self) -> Engine:
        """Create the engine. Raises an error with a message for the user."""
        ...


class SwitchError(Exception):
    """The other model could not be loaded. `__cause__` is the exception that loading raised.

    Attributes:
        restored: whether the previous model is in place: it runs or, if it was not loaded before, the next
            request loads it. False if loading it again has failed; the next request then tries once more.
    """

    def __init__(self, message: str, restored: bool) -> None:
        super().__init__(message)
        self.restored = restored


@dataclass(eq=False)
class ModelHandle:
    """An engine configuration, which a switch may replace, and the holder that creates its engine."""

    holder: ModelHolder
    config: EngineConfig

    @property
    def ready(self) -> bool:
        """Return whether `engine()` returns at once."""
        return self.holder.has(self.config)

    @property
    def progress(self) -> str | None:
        """Return the progress of loading in words; None if nothing is being loaded."""
        return LOADING.said

    @property
    def loaded(self) -> Engine | None:
        """Return the engine if it is loaded and running, without waiting; None if not."""
        return self.holder.loaded(self.config)

    def engine(self) -> Engine:
        """Return the engine, and wait while it is loaded. Raises the errors of loading."""
        return self.holder.engine(lambda: self.config)

    def preload(self) -> Future[Engine]:
        """Start to load the engine in a thread; return a future of the engine, with the errors of loading."""
        loader = ThreadPoolExecutor(1, "jet-load")
        loading = loader.submit(self.engine)
        loader.shutdown(wait=False)
        return loading

    def switch(self, config: EngineConfig, beside: bool, reason: str) -> Engine:
        """Replace model and configuration for all users of this handle; see `ModelHolder.switch`."""
        return self.holder.switch(self, config, beside, reason)


def loaded_engine(source: EngineHandle) -> Engine | None:
    """Return the engine of a handle without waiting; None if the engine is not loaded."""
    if isinstance(source, ModelHandle):
        return source.loaded
    return source.engine() if source.ready else None


class ModelHolder:
    """Creates an engine on first use and keeps it.

    Concurrent callers with equal configurations share one engine. Asking for another configuration closes the
    current engine first, since memory seldom holds two. After a failed load or an engine that has died, the
    next call tries again.
    """

    def __init__(self, create: Callable[[EngineConfig], Engine] | None = None) -> None:
        """`create` replaces `EngineConfig.create`, for tests."""
        self._create = create or (lambda config: config.create())
        self._lock = threading.Lock()  # over `_held` and the configurations of handles
        self._switching = threading.Lock()
        self._held: _LoadAttempt | None = None

    def handle(self, config: EngineConfig) -> ModelHandle:
        """Return a handle that loads this configuration on first use."""
        return ModelHandle(self, config)

    def has(self, config: EngineConfig) -> bool:
        """Return whether this configuration is loaded and running."""
        return self.loaded(config) is not None

    def loaded(self, config: EngineConfig) -> Engine | None:
        """Return the engine of this configuration if it is loaded and running; None if not."""
        held = self._held
        return held.future.result() if held is not None and held.config == config and held.running else None

    def engine(self, config: EngineConfig | Callable[[], EngineConfig]) -> Engine:
        """Return the engine of a configuration, and wait while it is loaded. Raises the errors of loading.

        If `config` is a function, it is called under the lock, so that no other load starts in between.
        """
        with self._lock:
            wanted = config() if callable(config) else config
            before = held = self._held
            if held is None or held.config != wanted or held.lost:
                self._held = held = _LoadAttempt(wanted)
        if held is not before:
            if before is not None:
                wait([before.future])
                before.close()
            held.load(self._create)
        return held.future.result()

    def switch(self, handle: ModelHandle, config: EngineConfig, beside: bool, reason: str) -> Engine:
        """Load another model in place of a handle's; return once its engine runs.

        Args:
            handle: its configuration becomes `config`.
            config: the configuration of the other model.
            beside: load it while the current engine goes on. Otherwise the current engine is closed first,
                which frees its memory, and new requests wait for the switch to end.
            reason: the message that ends the current engine's requests, with finish reason "model_changed".

        Raises:
            SwitchError: the other model could not be loaded. The previous one still runs or has been loaded
                again, if `SwitchError.restored`; if not, the next request tries to load it.
        """
        with self._switching:
            return (self._load_beside if beside else self._load_instead)(handle, config, reason)

    def _load_beside(self, handle: ModelHandle, config: EngineConfig, reason: str) -> Engine:
        attempt = _LoadAttempt(config)
        attempt.load(self._create)
        if (error := attempt.future.exception()) is not None:
            raise SwitchError(_words(error), restored=True) from error
        with self._lock:
            before, self._held, handle.config = self._held, attempt, config
        if before is not None:
            before.close(reason)
            _free_memory()
        return attempt.future.result()

    def _load_instead(self, handle: ModelHandle, config: EngineConfig, reason: str) -> Engine:
        attempt = _LoadAttempt(config)
        with self._lock:
            before, self._held = self._held, attempt
            earlier, handle.config = handle.config, config
        if before is not None:
            wait([before.future])
            before.close(reason)
            before = None
            _free_memory()
        try:
            engine = self._create(config)
        except BaseException as error:
            # Whoever waits for this attempt gets the earlier model.
            with self._lock:
                attempt.config = handle.config = earlier
            _forget_frames(error)
            _free_memory()
            attempt.load(self._create)
            raise SwitchError(_words(error), restored=attempt.running) from error
        attempt.future.set_result(engine)
        return engine

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

    def close(self, reason: str = "") -> None:
        self.future.add_done_callback(lambda future: _close(future, reason))


def _close(future: Future[Engine], reason: str) -> None:
    if future.exception() is None:
        future.result().close(reason)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _free_memory() -> None:
    """Collect reference cycles, and return the memory of a closed engine to the system."""
    gc.collect()
    with suppress(AttributeError, OSError):  # other C libraries than glibc do so by themselves, or never
        ctypes.CDLL(None).malloc_trim(0)


def _forget_frames(error: BaseException) -> None:
    """Drop the tracebacks of an error and its causes, whose frames keep variables such as weights alive."""
    one: BaseException | None = error
    while one is not None:
        one.__traceback__ = None
        one = one.__cause__ or one.__context__


# The holder of this process, closed at exit: Python must not end while a thread runs torch.
MODEL_HOLDER = ModelHolder()
atexit.register(MODEL_HOLDER.close)
