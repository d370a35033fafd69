"""LocalEngine: many requests, one model, one thread that touches the device.

    writer's thread   submit ─ tokenise, check ─┐                        ┌─ Stream ─ chunks
    device thread                               └─ schedule → run → send ┘

A turn is one piece of a prompt, or one token for everybody who writes. Requests join and leave between two
turns, and an abort takes effect before the next one. Whatever goes wrong with a request ends that one,
visibly, and no other.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from jet.api import (
    Alternative,
    EngineInfo,
    Request,
    RequestError,
    RequestStats,
    SamplingParams,
    TokenChunk,
    TokenDetail,
)
from jet.engine.prefill_policy import Pace
from jet.engine.scheduler import QueueFullError, Scheduler
from jet.engine.step_output import Detail, Outcome
from jet.engine.stream import Channel, LocalStream
from jet.engine.text.detokenizer import Detokenizer
from jet.engine.text.healing import Healing, Node, Way
from jet.hardware import MemoryReading
from jet.telemetry import DecodeMeter, Throttle
from jet.token_ids import Tokens

# Reading memory figures costs more than a token may; the panel cannot show more of them than this anyway.
_MEMORY_INTERVAL_S = 0.1
# How long close() waits for the step under way before it gives up on the device thread.
_CLOSE_PATIENCE_S = 30.0

_DIED = "The engine has died."

log = logging.getLogger(__name__)


class Runner(Protocol):
    """What the engine needs of a model. A handle is the state of one request, opaque to the engine."""

    def prepare(self) -> bool:
        """Do a small part of what makes later steps quicker. False if nothing was left to do."""
        ...

    def open(
        self, sampling: SamplingParams, alternatives: int, prompt: Tokens, tokens: int, user: str
    ) -> Any:
        """The state of a new request, which wants to know so many alternatives of every token.

        It may come to have so many tokens. Raises MemoryError if there is no room for it now.
        """
        ...

    def heal(self, handle: Any, healing: Healing) -> None:
        """Draw these tokens again once the prompt, which ends before them, has been read."""
        ...

    def healed(self, handle: Any) -> Way | None:
        """What they became; None as long as they have not been drawn."""
        ...

    def bar_end(self, handle: Any, tokens: int) -> None:
        """Let no token end the story among the first so many of the answer."""
        ...

    def resume(self, handle: Any, prompt: Tokens) -> int:
        """How many tokens of the prompt need not be read, because a state that has is resident."""
        ...

    def prefill(self, handle: Any, tokens: Tokens) -> None:
        """Read one piece of the prompt."""
        ...

    def settle(self, wait: bool) -> bool:
        """Whether what was read is there, so that the time it took is known; if need be, wait for that."""
        ...

    def decode(self, handles: Sequence[Any]) -> list[Outcome]:
        """The next token of each, or what went wrong with it. What is raised concerns them all."""
        ...

    def rewind(self, handle: Any) -> None:
        """The state has been lost: make it an empty one, which will read again and then go on."""
        ...

    def detail(self, handle: Any) -> Detail | None:
        """Of the last token, if the request wants to know."""
        ...

    def memory(self, handle: Any) -> dict[str, int]:
        """Bytes of the state: recurrent, conv, window_kv, full_kv."""
        ...

    def release(self, handle: Any, keep: bool) -> None:
        """Free the state, or keep it for requests that begin alike."""
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

    def encode(self, prompt: str, most: int, asked: str = "", user: str = "") -> Tokens:
        """1 to `most` tokens, or RequestError. `asked` is for chat models, `user` whose prompt it is."""
        ...

    def encode_healed(
        self, prompt: str, most: int, asked: str = "", user: str = ""
    ) -> tuple[Tokens, Healing | None, Detokenizer]:
        """As `encode`, without the tokens that are to be drawn again; those; and what follows the prompt."""
        ...

    def as_read(self, prompt: str) -> str:
        """A prompt as `encode_healed` reads it."""
        ...

    def measure(self, prompt: str, asked: str = "", user: str = "") -> int:
        """How many tokens `encode` gives for a prompt of any length."""
        ...

    def detokenizer(self, prompt: Sequence[int] | Tokens) -> Detokenizer:
        """A detokenizer for what follows these tokens."""
        ...

    def text_of(self, token: int, skip: int = 0) -> str:
        """The text of a token by itself, without its first bytes."""
        ...

    def count(self, text: str) -> int:
        """How many tokens a text has, or RequestError."""
        ...


@dataclass(frozen=True)
class EngineOptions:
    """How an engine shares itself out. The one place where the defaults stand.

    Attributes:
        max_active: requests served at once; the others wait in line.
        per_user: of one user's, so many at once.
        line: requests that may wait. More are refused.
        prefill_chunk: tokens of a prompt that are read at once.
        pause_s: how long those who write may have to wait for a piece of a prompt to be read.
        rest_s: seconds without any request before steps are prepared, so that neither somebody who comes back
            at once nor the first visitor waits for one.
    """

    max_active: int = 16
    per_user: int = 4
    line: int = 256
    prefill_chunk: int = 128
    pause_s: float = 0.06
    rest_s: float = 0.2


class WarmUpError(RuntimeError):
    """A model that loads and cannot write; the message is the request's."""


class _Job:
    """One request inside the engine. Once it is submitted, only the device thread writes to it."""

    def __init__(
        self,
        request: Request,
        prompt: Tokens,
        healing: Healing | None,
        detokenizer: Detokenizer,
        submitted: float,
    ) -> None:
        """`healing`: what the prompt ends in besides; it is drawn again."""
        self.user = request.user
        self.min_tokens = request.min_tokens
        self.healing = healing  # None once it has been drawn
        self.prompt_tokens = len(prompt) + (0 if healing is None else len(healing.tokens))
        self.sampling = request.sampling.with_seed()
        self.alternatives = request.alternatives
        self.prompt = prompt
        self.detokenizer = detokenizer
        self.meter = DecodeMeter(submitted)
        self.throttle = Throttle(_MEMORY_INTERVAL_S)
        self.channel: Channel
        self.phase = "queued"
        self.position = 0
        self.handle: Any = None
        self.text = self.prompt  # what is to be read before the next token: the prompt, or all so far
        self.read: int | None = None  # tokens of the text; None before the first turn
        self.resumed = 0  # tokens of the prompt that nobody had to read
        self.written: list[int] = []
        self.alone = 0  # tokens to be written alone, since a step has failed that it was a part of
        self.limit, self.limit_reason = self.sampling.max_new_tokens, "length"
        self.state_bytes: dict[str, int] = {}


class LocalEngine:
    """The engine of this process. `jet.api.Engine` says what its methods promise."""

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
        self._changed = threading.Condition()  # guards the scheduler, and why it is closed
        limits = (self._options.max_active, self._options.per_user, self._options.line)
        self._scheduler: Scheduler[_Job] = Scheduler(*limits)
        self._pace = Pace(self._options.prefill_chunk, self._options.pause_s)
        self._full = False  # no memory for the next in line, as long as nobody leaves
        self._prepared = False  # all that makes later steps quicker
        self._rest_s = self._options.rest_s  # before more of it is
        self._closed: str | None = None  # why no more requests are taken
        self._thread = threading.Thread(target=self._run, name="jet-device", daemon=True)
        self._thread.start()

    # Called from any thread.

    def submit(self, request: Request) -> LocalStream:
        """Queue a request. Raises RequestError at once if it can never be served."""
        submitted = self._clock()
        most = self._info.context - 1
        given = (request.prompt, most, request.asked, request.user)
        if request.healing:
            prompt, healing, detokenizer = self._tokenizer.encode_healed(*given)
        else:
            prompt, healing = self._tokenizer.encode(*given), None
            detokenizer = self._tokenizer.detokenizer(prompt)
        job = _Job(request, prompt, healing, detokenizer, submitted)
        room = self._info.context - job.prompt_tokens
        if job.limit > room:
            job.limit, job.limit_reason = room, "context"
        with self._changed:
            if not self.alive:
                raise RequestError(self._closed or _DIED)
            try:
                self._scheduler.add(job, job.user)
            except QueueFullError as error:
                raise RequestError(str(error)) from None
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

    def count_prompt(self, request: Request) -> int:
        """How many tokens the prompt of a request has, with all that is put around it when it is read."""
        prompt = self.as_read(request.prompt) if request.healing else request.prompt
        return self._tokenizer.measure(prompt, request.asked, request.user)

    def as_read(self, prompt: str) -> str:
        """A prompt as the model reads it with `Request.healing`: blanks at its end may be read as another."""
        return self._tokenizer.as_read(prompt)

    def warm_up(self, request: Request) -> None:
        """Run a request for its side effects and note how long that took. Raises WarmUpError if it fails."""
        started = self._clock()
        for chunk in self.submit(request):
            if chunk.stats.error is not None:
                raise WarmUpError(chunk.stats.error)
        self._info = replace(self._info, warmup_s=self._clock() - started)

    def learn(self, facts: Mapping[str, Any]) -> None:
        """Say so in `info()` from now on."""
        self._info = replace(self._info, **facts)

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
        """Wait for work, then do one piece of it. False when the engine has been closed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed is not None or self._scheduler.jobs,
                timeout=None if self._prepared else self._rest_s,
            )
            if self._closed is not None:
                return False
            idle = not self._scheduler.jobs
            abandoned = [job for job in self._scheduler.jobs if job.channel.aborted]
            line = list(self._scheduler.waiting)
        self._rest_s = 0.0 if idle else self._options.rest_s
        if idle:
            self._prepare()
        for job in abandoned:
            self._attempt(job, self._abort)
        if (line and self._admit()) or abandoned:
            with self._changed:
                line = list(self._scheduler.waiting)
            self._tell_positions(line)
        # Only this thread gives places and takes them away.
        writing, reading = list(self._scheduler.writing), self._scheduler.reading
        if reading and self._pace.may_read(self._clock(), bool(writing)):
            self._attempt(reading[0], self._read)
        elif writing:
            self._write(writing)
            self._pace.have_written()
        return True

    def _prepare(self) -> None:
        """While nobody waits. Whatever goes wrong with it, requests can do without."""
        try:
            self._prepared = not self._runner.prepare()
        except Exception:
            log.warning("Not all steps could be prepared: some will be slower.", exc_info=True)
            self._prepared = True

    def _admit(self) -> bool:
        """Give places to those whose turn it is, as far as there is memory. Whether anybody got one."""
        admitted = False
        while not self._full:
            with self._changed:
                job, others = self._scheduler.candidate(), self._scheduler.running
            if job is None or not self._open(job, bool(others)):
                break
            admitted = True
        return admitted

    def _open(self, job: _Job, others: bool) -> bool:
        """Whether there was room for a request, or none will ever be."""
        tokens = min(job.prompt_tokens + job.limit, self._info.context)
        try:
            job.handle = self._runner.open(job.sampling, job.alternatives, job.prompt, tokens, job.user)
            if job.healing is not None:
                self._runner.heal(job.handle, job.healing)
            if job.min_tokens:
                self._runner.bar_end(job.handle, job.min_tokens)
        except MemoryError as error:
            if others:  # somebody will leave
                self._full = True
                return False
            self._finish(job, "error", error=_reason(error))
            return True
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            log.warning("A request failed.", exc_info=True)
            self._finish(job, "error", error=_reason(error))
            return True
        with self._changed:
            self._scheduler.admit(job)
        self._attempt(job, self._start)
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
        except FloatingPointError as error:  # of the weights, not of this program: whoever asked is told
            self._finish(job, "error", error=_reason(error))
        except BaseException as error:  # a panic in the tokenizer is not an Exception
            log.warning("A request failed.", exc_info=True)
            self._finish(job, "error", error=_reason(error))

    def _abort(self, job: _Job) -> None:
        self._finish(job, "aborted")

    def _start(self, job: _Job) -> None:
        job.phase, job.position = "prefill", 0
        self._send(job)

    def _read(self, job: _Job) -> None:
        """One piece of the prompt. The first token comes with the last one."""
        if job.read is None:
            job.read = self._runner.resume(job.handle, job.text)
            job.resumed = job.resumed or min(job.read, len(job.prompt))
        with self._changed:
            others = bool(self._scheduler.writing)
        if job.read < len(job.text):
            started = self._clock()
            piece = job.text[job.read : job.read + self._pace.piece(others)]
            self._runner.prefill(job.handle, piece)
            settled = self._runner.settle(wait=others)  # the next step of others would wait in any case
            job.read += len(piece)
            now = self._clock()
            self._pace.have_read(len(piece), now - started, now, settled)
        if job.read < len(job.text):
            self._send(job)
            return
        self._full = False  # who begins alike now needs less
        with self._changed:
            self._scheduler.has_read(job)
        self._write([job])

    def _write(self, jobs: list[_Job]) -> None:
        """The next token of each. Who was a part of a step that failed is tried alone."""
        together = [job for job in jobs if not job.alone]
        for part in [together, *([job] for job in jobs if job.alone)]:
            if part:
                self._step(part)

    def _step(self, jobs: list[_Job]) -> None:
        try:
            outcomes = self._runner.decode([job.handle for job in jobs])
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._lost(jobs, error)
            return
        for job, outcome in zip(jobs, outcomes, strict=True):
            job.alone = max(0, job.alone - 1)
            self._attempt(job, partial(self._take, outcome=outcome))

    def _lost(self, jobs: list[_Job], error: BaseException) -> None:
        """A step has failed, and what it did to the states nobody knows.

        Of one request, that is its end. Several read their stories again, and write alone until it shows
        whose fault it was.
        """
        if len(jobs) == 1:
            log.warning("A request failed.", exc_info=error)
            self._finish(jobs[0], "error", error=_reason(error))
            return
        log.warning("A step of %d requests failed; they read again.", len(jobs), exc_info=error)
        for job in reversed(jobs):
            self._attempt(job, self._start_again)

    def _start_again(self, job: _Job) -> None:
        self._runner.rewind(job.handle)
        job.text, job.read = np.array([*job.prompt, *job.written], np.int32), None
        job.alone = 2  # the first comes from what it reads now, the second from a step
        with self._changed:
            self._scheduler.read_again(job)

    def _take(self, job: _Job, outcome: Outcome) -> None:
        """A token, or what kept the request from getting one."""
        if isinstance(outcome, Exception):
            raise outcome
        job.phase = "decode"
        if job.healing is not None:
            self._take_healed(job)
            return
        if outcome in self._tokenizer.stop_ids:
            self._finish(job, "stop")
            return
        job.written.append(outcome)
        self._show(job, outcome, job.detokenizer.push(outcome), self._detail(job, outcome))

    def _take_healed(self, job: _Job) -> None:
        """The end of the prompt has been drawn again. What is new of it is shown, and counts as a token."""
        way, job.healing = self._runner.healed(job.handle), None
        assert way is not None
        job.written += [*way.path, way.token]
        if way.adds:
            text = job.detokenizer.push(way.token, skip=len(way.node.left))
            self._show(job, way.token, text, self._detail(job, way.token, way.node))

    def _show(self, job: _Job, outcome: int, text: str, detail: tuple[TokenDetail, ...]) -> None:
        """Send a new token; after the last one that there may be, the request ends."""
        job.meter.tick(self._clock())
        if job.meter.tokens < job.limit:
            self._send(job, text, (outcome,), detail)
        else:
            self._finish(job, job.limit_reason, text, (outcome,), detail)

    def _detail(self, job: _Job, token: int, healed: Node | None = None) -> tuple[TokenDetail, ...]:
        """What the request wants to know of a token, which may begin with bytes of the prompt."""
        found = self._runner.detail(job.handle) if job.alternatives else None
        if found is None:
            return ()
        skip = 0 if healed is None else len(healed.left)

        def alternative(token: int, logprob: float) -> Alternative:
            text = self._tokenizer.text_of(token, skip) if skip else self._tokenizer.text_of(token)
            return Alternative(token, text, logprob)

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
        # Before its prompt is on its way, the device would wait for that.
        if (job.handle is None or job.read is not None) and self._throttle.ready(now):
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
        handle, job.handle, self._full = job.handle, None, False
        with self._changed:
            self._scheduler.remove(job)
        try:
            if handle is not None:
                self._runner.release(handle, keep=error is None)
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
            prompt_tokens=job.prompt_tokens,
            resumed_tokens=job.resumed,
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
