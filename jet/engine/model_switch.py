"""ModelSwitch: downloads, quantizes and loads another model while the page still uses the current one.

    choose ─ check memory ─ download ─ quantize ─ load ─ done
                 └────────────┴───────────┴─────────┴─ failed or canceled: the old model is still there

One change runs at a time, in a thread. Every tab of the page reads the state of the change, from any thread.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from jet.credentials import redact
from jet.engine import hub, quantized_cache
from jet.engine.catalog import BUILDING, Catalog, Form, gigabytes
from jet.engine.holder import ModelHandle, SwitchError
from jet.engine.hub import Canceled
from jet.engine.loading import LocalConfig
from jet.hardware import HardwareError
from jet.modeling import CheckpointError

CHOICE_ERRORS = (CheckpointError, HardwareError)  # raised where a model cannot be chosen

_RATE_S = 3.0  # over so long the rate of a download is taken
_STALLED_S = 5.0  # without a byte after which a download is said to wait
_SPARE = 0.05  # of a model's memory that must be left beside it
_CLOSING_S = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SwitchState:
    """State of the latest change of the model.

    Attributes:
        stage: idle · checking · downloading · quantizing · loading · done · failed · canceled.
        form: the id of the chosen form; "" before the first choice.
        title: the form's name to show.
        done, total: bytes of a download, or matrices of a quantization.
        rate: bytes a second of a download; None if not known yet.
        stalled: whether no byte has come for some seconds.
        message: a sentence about the present stage, or about the outcome.
    """

    stage: str = "idle"
    form: str = ""
    title: str = ""
    done: int = 0
    total: int = 0
    rate: float | None = None
    stalled: bool = False
    message: str = ""

    @property
    def active(self) -> bool:
        """Return whether the change is under way."""
        return self.stage in ("checking", "downloading", "quantizing", "loading")

    @property
    def can_cancel(self) -> bool:
        """Return whether the change can be canceled now; it cannot while the model is loaded."""
        return self.stage in ("checking", "downloading", "quantizing")


class ModelSwitch:
    """Changes the model of a handle to one of a catalog.

    Attributes:
        catalog: the models to choose from.
        measuring: whether the machine's speed is being measured.
        changes: how often the model was changed.
    """

    def __init__(
        self, handle: ModelHandle, catalog: Catalog, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.catalog = catalog
        self.measuring = False
        self.changes = 0
        self._handle = handle
        self._clock = clock
        self._lock = threading.Lock()
        self._state = SwitchState()
        self._canceled = threading.Event()
        self._thread: threading.Thread | None = None
        self._measured = self._started = False
        self._marks: list[tuple[float, int]] = []  # of a download: when, and how many bytes

    @property
    def started(self) -> bool:
        """Return whether a model runs or has run; if not, the first one is being loaded."""
        self._started = self._started or self._handle.loaded is not None
        return self._started

    def state(self) -> SwitchState:
        """Return the state now."""
        with self._lock:
            state, marks = self._state, self._marks
            if state.stage == "downloading" and marks:
                return replace(state, stalled=self._clock() - marks[-1][0] > _STALLED_S)
            return state

    def current(self) -> str:
        """Return the id of the form that runs, or is being loaded; "" if it is not in the catalog."""
        config = self._handle.config
        if not isinstance(config, LocalConfig):
            return ""
        return next(
            (form.id for form in self.catalog.forms() if self.catalog.config_of(form) == config),
            self._by_name(config),
        )

    def _by_name(self, config: LocalConfig) -> str:
        """Return the id of a configuration's form, made of the names of model and scheme.

        If the configuration names no model, the name is that of the running engine's model. Returns "" if
        there is none.
        """
        name = config.model
        if name is None:
            engine = self._handle.loaded
            name = None if engine is None else engine.info().model
        return f"{name}:{config.quantize or 'stored'}" if name else ""

    def measure_machine(self) -> None:
        """Measure the machine's speed in a thread, unless that has been done."""
        with self._lock:
            if self._measured:
                return
            self._measured = self.measuring = True
        threading.Thread(target=self._measure, name="jet-measure", daemon=True).start()

    def measure_again(self) -> None:
        """Measure the machine's speed once more, for models that were added to the list."""
        self._measured = False
        self.measure_machine()

    def _measure(self) -> None:
        try:
            self.catalog.measure_machine()
        except Exception:
            log.warning("The speed of this machine's memory could not be measured.", exc_info=True)
        finally:
            self.measuring = False

    def choose(self, id: str) -> None:
        """Begin to change to the form with this id, in a thread.

        Raises CheckpointError at once if the id is unknown, the form runs already, or another change is under
        way. Later errors appear in `state()`.
        """
        form = self.catalog.find(id)
        title = describe(form)
        with self._lock:
            if self._state.active:
                raise CheckpointError(f"{self._state.title} is still being prepared: cancel that first.")
            if id == self.current():
                raise CheckpointError(f"{title} runs already.")
            before, self._canceled = self._thread, threading.Event()
            self._state, self._marks = SwitchState("checking", id, title, message="Checking memory"), []
            canceled = self._canceled
            self._thread = threading.Thread(
                target=self._run, args=(form, canceled, before), name="jet-switch", daemon=True
            )
        self._thread.start()

    def cancel(self) -> None:
        """Cancel the change under way. Its download is resumed if the model is chosen again."""
        with self._lock:
            if self._state.can_cancel:
                self._canceled.set()
                what = "What has come is kept. " if self._state.stage == "downloading" else ""
                message = f"Canceled. {what}{self._old_model()} is still here."
                self._state = replace(self._state, stage="canceled", stalled=False, message=message)

    def remove_copy(self, id: str) -> int:
        """Remove the quantized copy of a form; return the bytes freed.

        Raises CheckpointError if the form is in use or is not a quantized one.
        """
        form = self.catalog.find(id)
        if form.scheme is None or id == self.current() or (self._state.active and self._state.form == id):
            raise CheckpointError("This copy is in use: change to another model first.")
        return quantized_cache.remove(form.checkpoint.name, form.scheme)

    def close(self) -> None:
        """Cancel the change under way, and wait up to `_CLOSING_S` seconds for its thread."""
        self.cancel()
        if self._thread is not None:
            self._thread.join(_CLOSING_S)

    # The thread of a change.

    def _run(self, form: Form, canceled: threading.Event, before: threading.Thread | None) -> None:
        if before is not None:
            before.join()  # one that was canceled may still wait for the network
        try:
            self._change(form, canceled)
        except Canceled:
            pass  # said by `cancel`
        except SwitchError as error:
            self._fail(canceled, form, error.__cause__ or error, error.restored)
        except BaseException as error:
            self._fail(canceled, form, error, restored=True)

    def _change(self, form: Form, canceled: threading.Event) -> None:
        name, scheme = form.checkpoint.name, form.scheme
        self._require_memory(form)
        if form.checkpoint.folder is None:
            self._set(canceled, stage="downloading", total=form.checkpoint.file_bytes, message="Downloading")
            repository, revision = hub.split(name)
            folder = hub.fetch(repository, revision, self._watch_download(canceled), form.disk_bytes)
        else:
            folder = form.checkpoint.folder
        if scheme is not None and quantized_cache.find(name, folder, scheme) is None:
            message = f"Quantizing to {scheme}, once; the copy is kept"
            self._set(canceled, stage="quantizing", done=0, total=0, rate=None, message=message)
            quantized_cache.make(name, folder, scheme, self._watch_progress(canceled))
        form = replace(form, sizes=self.catalog.measure(folder, scheme))
        beside = self._require_memory(form)
        self._set(canceled, stage="loading", done=0, total=0, rate=None, message=self._loading_words(beside))
        reason = (
            f"The model was changed to {describe(form)} while it wrote. What is written is kept; "
            "Continue goes on with the new model."
        )
        try:
            with BUILDING:
                self._handle.switch(self.catalog.config_of(form), beside, reason)
        finally:
            self.changes += 1  # also where the old model was loaded again
        self._set(canceled, stage="done", message=f"{describe(form)} writes from now on.")

    def _loading_words(self, beside: bool) -> str:
        if beside:
            return f"Loading, while {self._old_model()} goes on"
        return "Loading. The old model is closed already, so that there is room"

    def _watch_download(self, canceled: threading.Event) -> hub.Watch:
        def watch(done: int, total: int) -> None:
            now = self._clock()
            if not done:
                return  # what an earlier attempt has brought counts for no rate
            with self._lock:
                self._marks = [mark for mark in self._marks if now - mark[0] <= _RATE_S] + [(now, done)]
                (since, first), rate = self._marks[0], None
                if now - since > 0.5:
                    rate = (done - first) / (now - since)
            total = max(done, total)
            self._set(canceled, done=done, total=total, rate=rate)

        return watch

    def _watch_progress(self, canceled: threading.Event) -> quantized_cache.Progress:
        return lambda done, total: self._set(canceled, done=done, total=total)

    def _set(self, canceled: threading.Event, **changes: object) -> None:
        """Replace fields of the state. Raises Canceled if the change of the model has been canceled."""
        with self._lock:
            if canceled.is_set():
                raise Canceled
            self._state = replace(self._state, **changes)  # type: ignore[arg-type]

    def _require_memory(self, form: Form) -> bool:
        """Return whether a model can be loaded in memory beside the running model.

        Raises HardwareError if the model would not fit after the running one is closed, either.
        """
        needed = int(form.sizes.memory * (1 + _SPARE))
        free = self.catalog.machine.available_bytes()
        # Not on a GPU, where graphs are captured while nothing else allocates, and not in 16 bits: loading
        # makes those the whole process' type, also that of the engine that runs.
        if needed <= free and self.catalog.machine.device.type == "cpu" and form.is_float32:
            return True
        held = self._held_bytes()
        if needed <= free + held:
            return False
        also = " and what the model that runs now would give back" if held else ""
        raise HardwareError(
            f"{describe(form)} takes {gigabytes(needed)} of memory, and {gigabytes(free + held)} are free"
            f"{also}: close other programs, or choose a smaller form."
        )

    def _held_bytes(self) -> int:
        """Return the bytes that are freed when the running model is closed."""
        engine = self._handle.loaded
        info = None if engine is None else engine.info()
        if info is None or info.footprint is None:
            return 0
        return info.footprint.weights

    def _old_model(self) -> str:
        id = self.current()
        form = next((form for form in self.catalog.forms() if form.id == id), None)
        return "the model from before" if form is None else describe(form)

    def _fail(self, canceled: threading.Event, form: Form, error: BaseException, restored: bool) -> None:
        if canceled.is_set():
            return
        if not isinstance(error, CHOICE_ERRORS):
            log.warning("The model could not be changed.", exc_info=error)
        why = redact(explain(error))
        old = self._old_model()
        still = (
            f"{old[0].upper()}{old[1:]} is still here."
            if restored
            else (
                f"{old[0].upper()}{old[1:]} could not be loaded again, either: it is tried when you continue."
            )
        )
        what = "" if why.startswith(describe(form)) else f"{describe(form)} could not be loaded. "
        message = f"{what}{why.rstrip('.')}. {still}"
        with self._lock:
            self._state = replace(self._state, stage="failed", rate=None, stalled=False, message=message)


def describe(form: Form) -> str:
    """Name a form for people: "Jet-Nemotron 2B in int4"."""
    return form.checkpoint.title if form.scheme is None else f"{form.checkpoint.title} in {form.scheme}"


def explain(error: BaseException) -> str:
    """Return a message for the user about an error, with advice where the error itself has none."""
    said = str(error) or type(error).__name__
    if isinstance(error, CHOICE_ERRORS):
        return said
    if isinstance(error, MemoryError) or "allocate memory" in said or "out of memory" in said:
        return "There was not enough memory: close other programs, or choose a smaller form"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full: make room for {error.filename or 'the model'}"
    return f"{said.splitlines()[0]} ({type(error).__name__})"
