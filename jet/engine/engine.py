"""LocalEngine: many requests, one model, one thread that touches the device.

    writer's thread   submit ─ tokenise, check ─┐                        ┌─ Stream ─ chunks
    device thread                               └─ schedule → run → send ┘

A turn is one piece of a prompt or one token, so everybody who has a place moves on together, and an abort
takes effect before the next turn. Whatever goes wrong in a turn ends that request, visibly, and no other.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from jet.engine.detokenizer import Detokenizer
from jet.engine.scheduler import Scheduler
from jet.engine.stepping import Detail
from jet.engine.stream import Channel, LocalStream
from jet.engine.types import (
    Alternative,
    EngineInfo,
    Request,
    RequestError,
    RequestStats,
    SamplingParams,
    TokenChunk,
    TokenDetail,
)
from jet.hardware import MemoryReading
from jet.telemetry import DecodeMeter, Throttle

# Reading memory figures costs more than a token may; the panel cannot show more of them than this anyway.
_MEMORY_INTERVAL_S = 0.1
# How long close() waits for the step under way before it gives up on the device thread.
_CLOSE_PATIENCE_S = 30.0

_DIED = "The engine has died."

log = logging.getLogger(__name__)


class Runner(Protocol):
    """What the engine needs of a model. A handle is the state of one request, opaque to the engine."""

    def open(self, sampling: SamplingParams, alternatives: int) -> Any:
        """The state of a new request, which wants to know so many alternatives of every token."""
        ...

    def prefill(self, handle: Any, tokens: list[int]) -> None:
        """Read one piece of the prompt."""
        ...

    def step(self, handle: Any) -> int:
        """The next token."""
        ...

    def detail(self, handle: Any) -> Detail | None:
        """Of the last token, if the request wants to know."""
        ...

    def memory(self, handle: Any) -> dict[str, int]:
        """Bytes of the state: recurrent, conv, window_kv, full_kv."""
        ...

    def release(self, handle: Any) -> None:
        """Free the state."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


class Tokenizer(Protocol):
    """What the engine needs of a tokenizer."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end a story."""
        ...

    def encode(self, prompt: str, most: int) -> list[int]:
        """1 to `most` tokens, or RequestError."""
        ...

    def detokenizer(self, prompt: Sequence[int]) -> Detokenizer:
        """A detokenizer for what follows these tokens."""
        ...

    def text_of(self, token: int) -> str:
        """The text of a token by itself."""
        ...

    def count(self, text: str) -> int:
        """How many tokens a text has, or RequestError."""
        ...


@dataclass(frozen=True)
class EngineOptions:
    """How an engine shares itself out. The one place where the defaults stand.

    Attributes:
        max_active: requests served by turns; the others wait in line.
        prefill_chunk: tokens of a prompt read in one turn, while the other requests wait.
    """

    max_active: int = 4
    prefill_chunk: int = 128


class _Job:
    """One request inside the engine. Once it is submitted, only the device thread writes to it."""

    def __init__(
        self,
        sampling: SamplingParams,
        alternatives: int,
        prompt: list[int],
        detokenizer: Detokenizer,
        submitted: float,
    ) -> None:
        self.sampling = sampling
        self.alternatives = alternatives
        self.prompt = prompt
        self.detokenizer = detokenizer
        self.meter = DecodeMeter(submitted)
        self.throttle = Throttle(_MEMORY_INTERVAL_S)
        self.channel: Channel
        self.phase = "queued"
        self.position = 0
        self.handle: Any = None
        self.read = 0  # tokens of the prompt
        self.limit, self.limit_reason = sampling.max_new_tokens, "length"
        self.state_bytes: dict[str, int] = {}


class LocalEngine:
    """The engine of this process. `jet.engine.types.Engine` says what its methods promise."""

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer,
        info: EngineInfo,
        options: EngineOptions | None = None,
        read_memory: Callable[[], MemoryReading] = MemoryReading,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner
        self._tokenizer = tokenizer
        self._info = info
        self._options = options or EngineOptions()
        self._read_memory = read_memory
        self._clock = clock
        self._reading = read_memory()
        self._throttle = Throttle(_MEMORY_INTERVAL_S)
        self._changed = threading.Condition()  # guards the two below
        self._scheduler: Scheduler[_Job] = Scheduler(self._options.max_active)
        self._closed: str | None = None  # why no more requests are taken
        self._thread = threading.Thread(target=self._run, name="jet-device", daemon=True)
        self._thread.start()

    # Called from any thread.

    def submit(self, request: Request) -> LocalStream:
        """Queue a request. Raises RequestError at once if it can never be served."""
        submitted = self._clock()
        prompt = self._tokenizer.encode(request.prompt, self._info.context - 1)
        detokenizer = self._tokenizer.detokenizer(prompt)
        job = _Job(request.sampling.with_seed(), request.alternatives, prompt, detokenizer, submitted)
        room = self._info.context - len(prompt)
        if job.limit > room:
            job.limit, job.limit_reason = room, "context"
        with self._changed:
            if not self.alive:
                raise RequestError(self._closed or _DIED)
            self._scheduler.add(job)
            job.position = self._scheduler.position(job)
            job.channel = Channel(TokenChunk("", (), self._stats(job)), self._thread.is_alive)
            self._changed.notify()
        return LocalStream(job.channel)

    @property
    def alive(self) -> bool:
        """Whether requests are taken."""
        return self._closed is None and self._thread.is_alive()

    def info(self) -> EngineInfo:
        """What runs here, measured now."""
        with self._changed:
            active, queued = len(self._scheduler.running), len(self._scheduler.waiting)
        reading = asdict(self._read_memory())
        return replace(self._info, active_requests=active, queued_requests=queued, **reading)

    def count_tokens(self, text: str) -> int:
        """How many tokens a text has by itself. Raises RequestError if it cannot be read."""
        return self._tokenizer.count(text)

    def warm_up(self, request: Request) -> None:
        """Run a request for its side effects and note how long that took. Raises RuntimeError if it fails."""
        started = self._clock()
        for chunk in self.submit(request):
            if chunk.stats.error is not None:
                raise RuntimeError(chunk.stats.error)
        self._info = replace(self._info, warmup_s=self._clock() - started)

    def close(self) -> None:
        """End every live stream visibly, stop the device thread and let go of the model."""
        with self._changed:
            self._closed = self._closed or "The engine has been closed."
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSE_PATIENCE_S)
        self._fail_all()

    # The device thread.

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:
            log.exception("The device thread has died.")
            self._closed = f"The engine has died: {_reason(error)}"
        finally:
            self._fail_all()
            self._runner.close()

    def _turn(self) -> bool:
        """Wait for work, then serve one request once. False when the engine has been closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed is not None or self._scheduler.jobs)
            if self._closed is not None:
                return False
            abandoned = [job for job in self._scheduler.jobs if job.channel.aborted]
        for job in abandoned:
            self._attempt(job, self._abort)
        with self._changed:
            admitted = self._scheduler.admit()
            line = list(self._scheduler.waiting)
            served = self._scheduler.next()
        for job in admitted:
            self._attempt(job, self._start)
        if admitted or abandoned:
            self._tell_positions(line)
        if served is not None and served.phase != "done":
            self._attempt(served, self._advance)
        return True

    def _tell_positions(self, line: list[_Job]) -> None:
        for position, job in enumerate(line, start=1):
            if job.position != position:
                job.position = position
                self._attempt(job, self._send)

    def _attempt(self, job: _Job, act: Callable[[_Job], None]) -> None:
        """Do something for a request. What is raised is the end of this request, and of nothing else."""
        try:
            act(job)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # a panic in the tokenizer is not an Exception
            log.warning("A request failed.", exc_info=True)
            self._finish(job, "error", error=_reason(error))

    def _abort(self, job: _Job) -> None:
        self._finish(job, "aborted")

    def _start(self, job: _Job) -> None:
        job.phase, job.position = "prefill", 0
        self._send(job)

    def _advance(self, job: _Job) -> None:
        """One turn: a piece of the prompt, or a token. The first token comes with the last piece."""
        if job.handle is None:
            job.handle = self._runner.open(job.sampling, job.alternatives)
        if job.read < len(job.prompt):
            piece = job.prompt[job.read : job.read + self._options.prefill_chunk]
            self._runner.prefill(job.handle, piece)
            job.read += len(piece)
            if job.read < len(job.prompt):
                self._send(job)
                return
        self._write(job)

    def _write(self, job: _Job) -> None:
        token = self._runner.step(job.handle)
        job.phase = "decode"
        if token in self._tokenizer.stop_ids:
            self._finish(job, "stop")
            return
        job.meter.tick(self._clock())
        text, detail = job.detokenizer.push(token), self._detail(job, token)
        if job.meter.tokens < job.limit:
            self._send(job, text, (token,), detail)
        else:
            self._finish(job, job.limit_reason, text, (token,), detail)

    def _detail(self, job: _Job, token: int) -> tuple[TokenDetail, ...]:
        found = self._runner.detail(job.handle) if job.alternatives else None
        if found is None:
            return ()

        def alternative(token: int, logprob: float) -> Alternative:
            return Alternative(token, self._tokenizer.text_of(token), logprob)

        others = tuple(map(alternative, found.ids, found.logprobs))
        return (TokenDetail(alternative(token, found.logprob), others),)

    def _send(
        self,
        job: _Job,
        text: str = "",
        tokens: tuple[int, ...] = (),
        details: tuple[TokenDetail, ...] = (),
    ) -> None:
        now = self._clock()
        if job.handle is not None and job.throttle.ready(now):
            job.state_bytes = self._runner.memory(job.handle)
        if self._throttle.ready(now):
            self._reading = self._read_memory()
        job.channel.put(TokenChunk(text, tokens, self._stats(job), details))

    def _finish(
        self,
        job: _Job,
        reason: str,
        text: str = "",
        tokens: tuple[int, ...] = (),
        details: tuple[TokenDetail, ...] = (),
        error: str | None = None,
    ) -> None:
        """Free what the request holds, then send its last chunk."""
        if error is None:
            text += job.detokenizer.flush()
            if job.handle is not None:
                job.state_bytes = self._runner.memory(job.handle)
            self._reading = self._read_memory()
        handle, job.handle = job.handle, None
        with self._changed:
            self._scheduler.remove(job)
        try:
            if handle is not None:
                self._runner.release(handle)
        except Exception:
            log.exception("The state of a request could not be freed.")
        job.phase, job.position = "done", 0
        job.channel.put(TokenChunk(text, tokens, self._stats(job, reason, error), details))

    def _fail_all(self) -> None:
        """End whatever is left when the engine ends."""
        with self._changed:
            jobs = self._scheduler.jobs
            for job in jobs:
                self._scheduler.remove(job)
        for job in jobs:
            job.channel.fail(self._closed or _DIED)

    def _stats(self, job: _Job, finish_reason: str | None = None, error: str | None = None) -> RequestStats:
        state, reading, meter = job.state_bytes, self._reading, job.meter
        return RequestStats(
            phase=job.phase,
            queue_position=job.position,
            active_requests=len(self._scheduler.running),
            queued_requests=len(self._scheduler.waiting),
            tokens=meter.tokens,
            prompt_tokens=len(job.prompt),
            tokens_per_second=meter.tokens_per_second,
            mean_tokens_per_second=meter.mean_tokens_per_second,
            time_to_first_token_s=meter.time_to_first_token_s,
            recurrent_bytes=state.get("recurrent", 0),
            conv_bytes=state.get("conv", 0),
            window_kv_bytes=state.get("window_kv", 0),
            full_kv_bytes=state.get("full_kv", 0),
            process_memory_bytes=reading.process_memory_bytes,
            device_memory_bytes=reading.device_memory_bytes,
            device_reserved_bytes=reading.device_reserved_bytes,
            device_peak_bytes=reading.device_peak_bytes,
            device_total_bytes=reading.device_total_bytes,
            finish_reason=finish_reason,
            error=error,
            seed=job.sampling.seed,
        )


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
