"""LocalEngine: serves many requests with one model, which one thread runs on the device.

    caller's thread   submit ─ tokenize, check ─┐                        ┌─ Stream ─ chunks
    device thread                               └─ schedule → run → send ┘

A step is one prefill chunk, or one token for each decoding request. Requests join and leave between steps,
and an abort takes effect before the next step. An error of one request ends that request, with a message, and
no other.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from jet.api import (
    BusyError,
    EngineInfo,
    Request,
    RequestError,
    RequestStats,
    TokenChunk,
    TokenLogprobs,
)
from jet.engine.chunked_prefill import ChunkedPrefill
from jet.engine.input_processor import InputProcessor
from jet.engine.interfaces import Runner, StateStorage, Tokenizer
from jet.engine.output import OutputProcessor
from jet.engine.prefill_policy import ChunkedPrefillPolicy
from jet.engine.request_state import MEMORY_INTERVAL_S, RequestState
from jet.engine.scheduler import QueueFullError, Scheduler
from jet.engine.stream import Channel, LocalStream
from jet.engine.text.counting import PromptCounting
from jet.hardware import MemoryReading
from jet.telemetry import Throttle
from jet.token_ids import Tokens

# How long close() waits for the device thread to finish its step.
_CLOSE_PATIENCE_S = 30.0

_DIED = "The engine has died."

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineOptions:
    """Limits and timing of an engine, with their defaults.

    Attributes:
        max_running_requests: requests served at once; the others wait.
        max_running_per_user: requests of one user served at once.
        max_waiting: most waiting requests; further ones are rejected.
        prefill_chunk_size: most tokens of a prefill chunk.
        max_decode_stall_s: most seconds that a prefill chunk may delay decoding requests.
        idle_before_capture_s: seconds without requests before graphs are captured, so that a request that
            follows soon does not wait for a capture.
    """

    max_running_requests: int = 16
    max_running_per_user: int = 4
    max_waiting: int = 256
    prefill_chunk_size: int = 128
    max_decode_stall_s: float = 0.06
    idle_before_capture_s: float = 0.2


class WarmUpError(RuntimeError):
    """The warm-up request failed; the message is that request's error."""


class LocalEngine(PromptCounting):
    """The engine that runs a model in this process; implements `jet.api.Engine`."""

    _tokenizer: Tokenizer

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer,
        info: EngineInfo,
        options: EngineOptions | None = None,
        read_memory: Callable[[], MemoryReading] = MemoryReading,
        clock: Callable[[], float] = time.monotonic,
        states: StateStorage | None = None,
    ) -> None:
        """Start the device thread.

        Args:
            runner: the model runner; used on the device thread only.
            tokenizer: the model's tokenizer.
            info: the properties that `info()` returns, without load and memory.
            options: limits and timing.
            read_memory: measures the memory in use.
            clock: returns the time in seconds.
            states: stores the states of finished requests, while no request runs; None to store none.
        """
        self._runner, self._states = runner, states
        self._tokenizer = tokenizer
        # What begins a text must not come where no text may end: it would begin another one.
        self._starting_tokens = frozenset(getattr(tokenizer, "start", ())) - tokenizer.stop_ids
        self._info = info
        self._input = InputProcessor(tokenizer, info, clock)
        self._options = options or EngineOptions()
        self._read_memory = read_memory
        self._clock = clock
        self._memory_reading = read_memory()
        self._output = OutputProcessor(runner, tokenizer, clock, self._send, self._finish, self._recompute)
        self._throttle = Throttle(MEMORY_INTERVAL_S)
        self._changed = threading.Condition()  # guards the scheduler and `_closed`
        limits = (
            self._options.max_running_requests,
            self._options.max_running_per_user,
            self._options.max_waiting,
        )
        self._scheduler: Scheduler[RequestState] = Scheduler(*limits)
        self._prefill_policy = ChunkedPrefillPolicy(
            self._options.prefill_chunk_size, self._options.max_decode_stall_s
        )
        self._prefill = ChunkedPrefill(
            runner,
            self._prefill_policy,
            clock,
            self._others_decode,
            self._attempt,
            self._send,
            self._score,
            self._fail,
            self._finish_prefill,
        )
        self._memory_full = False  # no memory for the next request until another ends
        self._all_captured = False  # whether `capture_next` has nothing left to do
        self._all_stored = True  # whether no state of a finished request is left to be stored
        self._idle_timeout_s = self._options.idle_before_capture_s  # until the next capture
        self._closed: str | None = None  # why no more requests are accepted
        self._end_reason = "error"  # finish reason of the requests that the engine's end ends
        self._thread = threading.Thread(target=self._run, name="jet-device", daemon=True)
        self._thread.start()

    # Called from any thread.

    def submit(self, request: Request) -> LocalStream:
        """Queue a request and return its stream.

        Raises RequestError at once if the request can never be served, or if the engine is closed; BusyError
        if the queue is full.
        """
        req = self._input.process(request)
        with self._changed:
            if not self.alive:
                raise RequestError(self._closed or _DIED)
            try:
                self._scheduler.add(req, req.cache_salt if request.user_id is None else request.user_id)
            except QueueFullError as error:
                raise BusyError(str(error)) from None
            req.queue_position = self._scheduler.position(req)
            req.channel = Channel(TokenChunk("", (), self._stats(req)), self._thread.is_alive)
            self._changed.notify()
        return LocalStream(req.channel)

    @property
    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer of this engine's model."""
        return self._tokenizer

    @property
    def alive(self) -> bool:
        """Return whether requests are accepted."""
        return self._closed is None and self._thread.is_alive()

    def info(self) -> EngineInfo:
        """Return the engine's properties, with load and memory measured now."""
        with self._changed:
            active, queued = len(self._scheduler.running), len(self._scheduler.waiting)
        reading = asdict(self._read_memory())
        return replace(self._info, active_requests=active, queued_requests=queued, **reading)

    def warm_up(self, request: Request) -> None:
        """Run a request and record its duration as `EngineInfo.warmup_s`. Raises WarmUpError if it fails."""
        started = self._clock()
        for chunk in self.submit(request):
            if chunk.stats.error is not None:
                raise WarmUpError(chunk.stats.error)
        self._info = replace(self._info, warmup_s=self._clock() - started)

    def update_info(self, facts: Mapping[str, Any]) -> None:
        """Replace these fields of the `EngineInfo` that `info()` returns from now on."""
        self._info = replace(self._info, **facts)

    def forget(self, cache_salt: str) -> None:
        """Remove a user's states from memory and disk, except for those of running requests."""
        if self._states is not None:
            self._states.forget(cache_salt)

    def close(self, reason: str = "") -> None:
        """End every stream with an error, stop the device thread and release the model.

        `reason`: the error message if another model takes over; streams then end as "model_changed".
        """
        with self._changed:
            if reason and self._closed is None:
                self._end_reason = "model_changed"
            self._closed = self._closed or reason or "The engine has been closed."
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSE_PATIENCE_S)
        self._fail_all()

    # The device thread.

    def _run(self) -> None:
        try:
            while self._step():
                pass
        except BaseException as error:
            log.exception("The device thread has died.")
            self._closed = f"The engine has died: {_reason(error)}"
        finally:
            self._fail_all()
            self._runner.close()

    def _step(self) -> bool:
        """Wait for work and run one step; return False once the engine is closed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed is not None or self._scheduler.requests,
                timeout=None if self._all_captured and self._all_stored else self._idle_timeout_s,
            )
            if self._closed is not None:
                return False
            idle = not self._scheduler.requests
            abandoned = [req for req in self._scheduler.requests if req.channel.aborted]
            waiting = list(self._scheduler.waiting)
        self._idle_timeout_s = 0.0 if idle else self._options.idle_before_capture_s
        if idle:
            self._run_when_idle()
        for req in abandoned:
            self._attempt(req, self._output.abort)
        if (waiting and self._admit()) or abandoned:
            with self._changed:
                waiting = list(self._scheduler.waiting)
            self._send_queue_positions(waiting)
        # No lock: only this thread admits and removes running requests.
        decoding, prefilling = list(self._scheduler.decoding), self._scheduler.prefilling
        if prefilling and self._prefill_policy.may_prefill(self._clock(), bool(decoding)):
            self._prefill.run_next(prefilling)
        elif decoding:
            self._decode(decoding)
            self._prefill_policy.record_decode()
        return True

    def _run_when_idle(self) -> None:
        """Capture one more graph; once all graphs are captured, store one state of a finished request.

        Called while there are no requests. After an error, no further graphs are captured; after an error of
        storing, no further states are stored until another request has finished.
        """
        if self._all_captured:
            self._store_next()
            return
        try:
            self._all_captured = not self._runner.capture_next()
        except Exception:
            log.warning("Not all graphs could be captured: some steps will be slower.", exc_info=True)
            self._all_captured = True

    def _store_next(self) -> None:
        try:
            self._all_stored = self._states is None or not self._states.store_next()
        except Exception:
            log.warning("The state of a story was not stored.", exc_info=True)
            self._all_stored = True

    def _admit(self) -> bool:
        """Admit waiting requests as limits and memory allow; return whether any was admitted."""
        admitted = False
        while not self._memory_full:
            with self._changed:
                req, others = self._scheduler.next_admissible(), self._scheduler.running
            if req is None or not self._allocate(req, bool(others)):
                break
            admitted = True
        return admitted

    def _allocate(self, req: RequestState, others: bool) -> bool:
        """Allocate a request's state and admit the request; end the request with an error if that fails.

        Returns False if there is no memory for it until one of the other running requests (`others`) ends.
        """
        tokens = min(req.prompt_tokens + req.max_new_tokens + req.overrun, self._info.context)
        sampling = req.sampling
        if req.overrun:
            sampling = replace(sampling, max_new_tokens=sampling.max_new_tokens + req.overrun)
        try:
            req.sequence = self._runner.allocate(
                sampling, req.top_logprobs, req.prompt_ids, tokens, req.cache_salt
            )
            if req.healing is not None:
                self._runner.heal(req.sequence, req.healing)
            self._set_bars_and_biases(req)
            if req.guard is not None:
                self._runner.guard(req.sequence)
        except MemoryError as error:
            if others:  # they will free memory
                self._memory_full = True
                return False
            self._finish(req, "error", error=_reason(error))
            return True
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            log.warning("A request failed.", exc_info=True)
            self._finish(req, "error", error=_reason(error))
            return True
        with self._changed:
            self._scheduler.admit(req)
        self._attempt(req, self._start)
        return True

    def _set_bars_and_biases(self, req: RequestState) -> None:
        if req.min_tokens:
            self._runner.set_min_tokens(req.sequence, req.min_tokens)
        if req.logit_bias or req.raw_logprobs:
            self._runner.bias(req.sequence, req.logit_bias, req.raw_logprobs)
        if req.word_bias:
            self._runner.bias_words(req.sequence, req.word_bias)
        forbidden = set(req.stop_token_ids) if req.stop_token_ids_after else set()
        if req.min_tokens:
            forbidden |= self._starting_tokens
        if forbidden:
            steps = max(req.stop_token_ids_after, req.min_tokens)
            self._runner.forbid(req.sequence, tuple(sorted(forbidden)), steps)

    def _send_queue_positions(self, waiting: list[RequestState]) -> None:
        for position, req in enumerate(waiting, start=1):
            if req.queue_position != position:
                req.queue_position = position
                self._attempt(req, self._send)

    def _attempt(self, req: RequestState, act: Callable[[RequestState], None]) -> None:
        """Call `act` for a request; an exception ends this request and no other."""
        try:
            act(req)
        except (SystemExit, KeyboardInterrupt):
            raise
        except FloatingPointError as error:  # a fault of the weights, not worth a traceback
            self._finish(req, "error", error=_reason(error))
        except BaseException as error:  # a panic in the tokenizer is not an Exception
            log.warning("A request failed.", exc_info=True)
            self._finish(req, "error", error=_reason(error))

    def _start(self, req: RequestState) -> None:
        req.phase, req.queue_position = "prefill", 0
        self._send(req)

    def _others_decode(self) -> bool:
        with self._changed:
            return bool(self._scheduler.decoding)

    def _fail(self, req: RequestState, error: Exception) -> None:
        self._finish(req, "error", error=_reason(error))

    def _finish_prefill(self, reqs: list[RequestState]) -> None:
        """Draw the first token of those requests whose prompt has been prefilled."""
        finished = [req for req in reqs if req.num_prefilled == len(req.input_ids)]
        if not finished:
            return
        self._memory_full = False  # a waiting request with the same prefix needs fewer pages now
        with self._changed:
            for req in finished:
                self._scheduler.finish_prefill(req)
        self._decode(finished)

    def _score(self, req: RequestState, chunk: Tokens, top_logprobs: int) -> None:
        """Prefill a chunk of the prompt; send the log-probability of the token after each of its tokens."""
        assert req.num_prefilled is not None
        following = req.input_ids[req.num_prefilled + 1 : req.num_prefilled + 1 + len(chunk)]
        found = self._runner.score(req.sequence, chunk, following, top_logprobs)
        logprobs = tuple(map(self._output.describe, found))
        req.channel.put(TokenChunk("", (), self._stats(req), prompt_logprobs=logprobs))
        if req.num_prefilled + len(chunk) == len(req.input_ids):
            req.prompt_logprobs = None

    def _decode(self, reqs: list[RequestState]) -> None:
        """Run a decode step in one batch; requests whose batch has failed run one by one after it."""
        shared = [req for req in reqs if not req.isolated_steps]
        for batch in [shared, *([req] for req in reqs if req.isolated_steps)]:
            if batch:
                self._decode_batch(batch)

    def _decode_batch(self, reqs: list[RequestState]) -> None:
        try:
            outcomes = self._runner.decode([req.sequence for req in reqs])
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._recover_batch(reqs, error)
            return
        for req, outcome in zip(reqs, outcomes, strict=True):
            req.isolated_steps = max(0, req.isolated_steps - 1)
            self._attempt(req, partial(self._output.accept, outcome=outcome))

    def _recover_batch(self, reqs: list[RequestState], error: BaseException) -> None:
        """Handle a failed step, after which the states of its requests are unknown.

        A single request ends. Several are recomputed and then decode one by one, so that the request at fault
        fails alone.
        """
        if len(reqs) == 1:
            log.warning("A request failed.", exc_info=error)
            self._finish(reqs[0], "error", error=_reason(error))
            return
        log.warning("A step of %d requests failed; they are recomputed.", len(reqs), exc_info=error)
        for req in reversed(reqs):
            self._attempt(req, self._recompute)

    def _recompute(self, req: RequestState) -> None:
        self._runner.reset(req.sequence)
        req.input_ids, req.num_prefilled = np.array([*req.prompt_ids, *req.output_ids], np.int32), None
        req.isolated_steps = 2  # the first token follows its prefill, the second a decode step
        with self._changed:
            self._scheduler.preempt(req)

    def _send(
        self,
        req: RequestState,
        text: str = "",
        tokens: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprobs, ...] = (),
    ) -> None:
        now = self._clock()
        if req.sequence is not None and req.throttle.ready(now):
            req.state_bytes = self._runner.state_bytes(req.sequence)
        # Not between admission and the first chunk: it would delay the prefill.
        if (req.sequence is None or req.num_prefilled is not None) and self._throttle.ready(now):
            self._memory_reading = self._read_memory()
        req.channel.put(TokenChunk(text, tokens, self._stats(req), logprobs))

    def _finish(
        self,
        req: RequestState,
        reason: str,
        text: str = "",
        tokens: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprobs, ...] = (),
        error: str | None = None,
        keep_snapshot: bool = True,
    ) -> None:
        """Free a request's state, then send its last chunk."""
        if error is None:
            rest = req.detokenizer.flush()
            if req.ending is not None:
                rest = req.ending.close(rest, cut=reason in ("length", "context"))
            text += rest
            if req.sequence is not None:
                req.state_bytes = self._runner.state_bytes(req.sequence)
            self._memory_reading = self._read_memory()
        sequence, req.sequence, self._memory_full = req.sequence, None, False
        self._all_stored = self._states is None
        with self._changed:
            self._scheduler.remove(req)
        try:
            if sequence is not None:
                self._runner.free(sequence, keep_snapshot=error is None and keep_snapshot)
        except Exception:
            log.exception("The state of a request could not be freed.")
        req.phase, req.queue_position = "done", 0
        req.channel.put(TokenChunk(text, tokens, self._stats(req, reason, error), logprobs))

    def _fail_all(self) -> None:
        """End all requests with an error when the engine ends."""
        with self._changed:
            reqs = self._scheduler.requests
            for req in reqs:
                self._scheduler.remove(req)
        for req in reqs:
            req.channel.fail(self._closed or _DIED, self._end_reason)

    def _stats(
        self, req: RequestState, finish_reason: str | None = None, error: str | None = None
    ) -> RequestStats:
        state, reading, meter = req.state_bytes, self._memory_reading, req.meter
        return RequestStats(
            phase=req.phase,
            queue_position=req.queue_position,
            active_requests=len(self._scheduler.running),
            queued_requests=len(self._scheduler.waiting),
            tokens=meter.tokens,
            prompt_tokens=req.prompt_tokens,
            cached_tokens=req.cached_tokens,
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
            seed=req.sampling.seed,
            unfinished="" if req.ending is None else req.ending.unfinished,
        )


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
