"""LocalEngine: many requests, one model, one thread that touches the device.

    writer's thread   submit ─ tokenize, check ─┐                        ┌─ Stream ─ chunks
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
    EngineInfo,
    Request,
    RequestError,
    RequestStats,
    SamplingParams,
    TokenChunk,
    TokenLogprob,
    TokenLogprobs,
)
from jet.engine.prefill_policy import ChunkedPrefillPolicy
from jet.engine.scheduler import QueueFullError, Scheduler
from jet.engine.stream import Channel, LocalStream
from jet.engine.text.detokenizer import Detokenizer
from jet.engine.text.healing import Healing, HealingPath, Node
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

    def capture_next(self) -> bool:
        """Do a small part of what makes later steps quicker. False if nothing was left to do."""
        ...

    def allocate(
        self, sampling: SamplingParams, top_logprobs: int, prompt: Tokens, max_tokens: int, cache_salt: str
    ) -> Any:
        """The state of a new request, which wants to know so many alternatives of every token.

        It may come to have so many tokens. Raises MemoryError if there is no room for it now.
        """
        ...

    def heal(self, sequence: Any, healing: Healing) -> None:
        """Draw these tokens again once the prompt, which ends before them, has been read."""
        ...

    def healed_path(self, sequence: Any) -> HealingPath | None:
        """What they became; None as long as they have not been drawn."""
        ...

    def set_min_tokens(self, sequence: Any, tokens: int) -> None:
        """Let no token end the story among the first so many of the answer."""
        ...

    def restore_prefix(self, sequence: Any, prompt: Tokens) -> int:
        """How many tokens of the prompt need not be read, because a state that has is resident."""
        ...

    def prefill(self, sequence: Any, tokens: Tokens) -> None:
        """Read one piece of the prompt."""
        ...

    def synchronize(self, blocking: bool) -> bool:
        """Whether what was read is there, so that the time it took is known; if need be, wait for that."""
        ...

    def decode(self, sequences: Sequence[Any]) -> list[int | Exception]:
        """The next token of each, or what went wrong with it. What is raised concerns them all."""
        ...

    def reset(self, sequence: Any) -> None:
        """The state has been lost: make it an empty one, which will read again and then go on."""
        ...

    def logprobs(self, sequence: Any) -> TokenLogprobs | None:
        """Return the last token's log-probabilities, without texts; None if the request wants none."""
        ...

    def state_bytes(self, sequence: Any) -> dict[str, int]:
        """Bytes of the state: recurrent, conv, window_kv, full_kv."""
        ...

    def free(self, sequence: Any, keep_snapshot: bool) -> None:
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

    def encode(self, prompt: str, max_tokens: int, instruction: str = "", cache_salt: str = "") -> Tokens:
        """1 to `max_tokens` tokens, or RequestError.

        `instruction` is for chat models, `cache_salt` whose prompt it is.
        """
        ...

    def encode_healed(
        self, prompt: str, max_tokens: int, instruction: str = "", cache_salt: str = ""
    ) -> tuple[Tokens, Healing | None, Detokenizer]:
        """As `encode`, without the tokens that are to be drawn again; those; and what follows the prompt."""
        ...

    def normalize_prompt(self, prompt: str) -> str:
        """A prompt as `encode_healed` reads it."""
        ...

    def count_prompt(self, prompt: str, instruction: str = "", cache_salt: str = "") -> int:
        """How many tokens `encode` gives for a prompt of any length."""
        ...

    def detokenizer(self, prompt: Sequence[int] | Tokens) -> Detokenizer:
        """A detokenizer for what follows these tokens."""
        ...

    def token_text(self, token: int, skip: int = 0) -> str:
        """The text of a token by itself, without its first bytes."""
        ...

    def count(self, text: str) -> int:
        """How many tokens a text has, or RequestError."""
        ...


@dataclass(frozen=True)
class EngineOptions:
    """How an engine shares itself out. The one place where the defaults stand.

    Attributes:
        max_running_requests: requests served at once; the others wait in line.
        max_running_per_user: of one user's, so many at once.
        max_waiting: requests that may wait. More are refused.
        prefill_chunk_size: tokens of a prompt that are read at once.
        max_decode_stall_s: how long those who write may have to wait for a piece of a prompt to be read.
        idle_before_capture_s: seconds without any request before steps are prepared, so that neither somebody
            who comes back at once nor the first visitor waits for one.
    """

    max_running_requests: int = 16
    max_running_per_user: int = 4
    max_waiting: int = 256
    prefill_chunk_size: int = 128
    max_decode_stall_s: float = 0.06
    idle_before_capture_s: float = 0.2


class WarmUpError(RuntimeError):
    """A model that loads and cannot write; the message is the request's."""


class _RequestState:
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
        self.cache_salt = request.cache_salt
        self.min_tokens = request.min_tokens
        self.healing = healing  # None once it has been drawn
        self.prompt_tokens = len(prompt) + (0 if healing is None else len(healing.tokens))
        self.sampling = request.sampling.with_seed()
        self.top_logprobs = request.top_logprobs
        self.prompt_ids = prompt
        self.detokenizer = detokenizer
        self.meter = DecodeMeter(submitted)
        self.throttle = Throttle(_MEMORY_INTERVAL_S)
        self.channel: Channel
        self.phase = "queued"
        self.queue_position = 0
        self.sequence: Any = None
        # What is to be read before the next token: the prompt, or all so far.
        self.input_ids = self.prompt_ids
        self.num_prefilled: int | None = None  # tokens of the text; None before the first turn
        self.cached_tokens = 0  # tokens of the prompt that nobody had to read
        self.output_ids: list[int] = []
        self.isolated_steps = 0  # tokens to be written alone, since a step has failed that it was a part of
        self.max_new_tokens, self.length_reason = self.sampling.max_new_tokens, "length"
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
        self._memory_reading = read_memory()
        self._throttle = Throttle(_MEMORY_INTERVAL_S)
        self._changed = threading.Condition()  # guards the scheduler, and why it is closed
        limits = (
            self._options.max_running_requests,
            self._options.max_running_per_user,
            self._options.max_waiting,
        )
        self._scheduler: Scheduler[_RequestState] = Scheduler(*limits)
        self._prefill_policy = ChunkedPrefillPolicy(
            self._options.prefill_chunk_size, self._options.max_decode_stall_s
        )
        self._memory_full = False  # no memory for the next in line, as long as nobody leaves
        self._all_captured = False  # all that makes later steps quicker
        self._idle_timeout_s = self._options.idle_before_capture_s  # before more of it is
        self._closed: str | None = None  # why no more requests are taken
        self._thread = threading.Thread(target=self._run, name="jet-device", daemon=True)
        self._thread.start()

    # Called from any thread.

    def submit(self, request: Request) -> LocalStream:
        """Queue a request. Raises RequestError at once if it can never be served."""
        submitted = self._clock()
        most = self._info.context - 1
        given = (request.prompt, most, request.instruction, request.cache_salt)
        if request.healing:
            prompt, healing, detokenizer = self._tokenizer.encode_healed(*given)
        else:
            prompt, healing = self._tokenizer.encode(*given), None
            detokenizer = self._tokenizer.detokenizer(prompt)
        req = _RequestState(request, prompt, healing, detokenizer, submitted)
        room = self._info.context - req.prompt_tokens
        if req.max_new_tokens > room:
            req.max_new_tokens, req.length_reason = room, "context"
        with self._changed:
            if not self.alive:
                raise RequestError(self._closed or _DIED)
            try:
                self._scheduler.add(req, req.cache_salt)
            except QueueFullError as error:
                raise RequestError(str(error)) from None
            req.queue_position = self._scheduler.position(req)
            req.channel = Channel(TokenChunk("", (), self._stats(req)), self._thread.is_alive)
            self._changed.notify()
        return LocalStream(req.channel)

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
        prompt = self.normalize_prompt(request.prompt) if request.healing else request.prompt
        return self._tokenizer.count_prompt(prompt, request.instruction, request.cache_salt)

    def normalize_prompt(self, prompt: str) -> str:
        """A prompt as the model reads it with `Request.healing`: blanks at its end may be read as another."""
        return self._tokenizer.normalize_prompt(prompt)

    def warm_up(self, request: Request) -> None:
        """Run a request for its side effects and note how long that took. Raises WarmUpError if it fails."""
        started = self._clock()
        for chunk in self.submit(request):
            if chunk.stats.error is not None:
                raise WarmUpError(chunk.stats.error)
        self._info = replace(self._info, warmup_s=self._clock() - started)

    def update_info(self, facts: Mapping[str, Any]) -> None:
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
            while self._step():
                pass
        except BaseException as error:
            log.exception("The device thread has died.")
            self._closed = f"The engine has died: {_reason(error)}"
        finally:
            self._fail_all()
            self._runner.close()

    def _step(self) -> bool:
        """Wait for work, then do one piece of it. False when the engine has been closed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed is not None or self._scheduler.requests,
                timeout=None if self._all_captured else self._idle_timeout_s,
            )
            if self._closed is not None:
                return False
            idle = not self._scheduler.requests
            abandoned = [req for req in self._scheduler.requests if req.channel.aborted]
            line = list(self._scheduler.waiting)
        self._idle_timeout_s = 0.0 if idle else self._options.idle_before_capture_s
        if idle:
            self._run_when_idle()
        for req in abandoned:
            self._attempt(req, self._abort)
        if (line and self._admit()) or abandoned:
            with self._changed:
                line = list(self._scheduler.waiting)
            self._send_queue_positions(line)
        # Only this thread gives places and takes them away.
        writing, reading = list(self._scheduler.decoding), self._scheduler.prefilling
        if reading and self._prefill_policy.may_prefill(self._clock(), bool(writing)):
            self._attempt(reading[0], self._prefill)
        elif writing:
            self._decode(writing)
            self._prefill_policy.record_decode()
        return True

    def _run_when_idle(self) -> None:
        """While nobody waits. Whatever goes wrong with it, requests can do without."""
        try:
            self._all_captured = not self._runner.capture_next()
        except Exception:
            log.warning("Not all steps could be prepared: some will be slower.", exc_info=True)
            self._all_captured = True

    def _admit(self) -> bool:
        """Give places to those whose turn it is, as far as there is memory. Whether anybody got one."""
        admitted = False
        while not self._memory_full:
            with self._changed:
                req, others = self._scheduler.next_admissible(), self._scheduler.running
            if req is None or not self._allocate(req, bool(others)):
                break
            admitted = True
        return admitted

    def _allocate(self, req: _RequestState, others: bool) -> bool:
        """Whether there was room for a request, or none will ever be."""
        tokens = min(req.prompt_tokens + req.max_new_tokens, self._info.context)
        try:
            req.sequence = self._runner.allocate(
                req.sampling, req.top_logprobs, req.prompt_ids, tokens, req.cache_salt
            )
            if req.healing is not None:
                self._runner.heal(req.sequence, req.healing)
            if req.min_tokens:
                self._runner.set_min_tokens(req.sequence, req.min_tokens)
        except MemoryError as error:
            if others:  # somebody will leave
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

    def _send_queue_positions(self, line: list[_RequestState]) -> None:
        for position, req in enumerate(line, start=1):
            if req.queue_position != position:
                req.queue_position = position
                self._attempt(req, self._send)

    def _attempt(self, req: _RequestState, act: Callable[[_RequestState], None]) -> None:
        """Do something for a request. What is raised is the end of this request, and of nothing else."""
        try:
            act(req)
        except (SystemExit, KeyboardInterrupt):
            raise
        except FloatingPointError as error:  # of the weights, not of this program: whoever asked is told
            self._finish(req, "error", error=_reason(error))
        except BaseException as error:  # a panic in the tokenizer is not an Exception
            log.warning("A request failed.", exc_info=True)
            self._finish(req, "error", error=_reason(error))

    def _abort(self, req: _RequestState) -> None:
        self._finish(req, "aborted")

    def _start(self, req: _RequestState) -> None:
        req.phase, req.queue_position = "prefill", 0
        self._send(req)

    def _prefill(self, req: _RequestState) -> None:
        """One piece of the prompt. The first token comes with the last one."""
        if req.num_prefilled is None:
            req.num_prefilled = self._runner.restore_prefix(req.sequence, req.input_ids)
            req.cached_tokens = req.cached_tokens or min(req.num_prefilled, len(req.prompt_ids))
        with self._changed:
            others = bool(self._scheduler.decoding)
        if req.num_prefilled < len(req.input_ids):
            started = self._clock()
            piece = req.input_ids[
                req.num_prefilled : req.num_prefilled + self._prefill_policy.chunk_size(others)
            ]
            self._runner.prefill(req.sequence, piece)
            # The next step of others would wait in any case.
            settled = self._runner.synchronize(blocking=others)
            req.num_prefilled += len(piece)
            now = self._clock()
            self._prefill_policy.record_chunk(len(piece), now - started, now, settled)
        if req.num_prefilled < len(req.input_ids):
            self._send(req)
            return
        self._memory_full = False  # who begins alike now needs less
        with self._changed:
            self._scheduler.finish_prefill(req)
        self._decode([req])

    def _decode(self, reqs: list[_RequestState]) -> None:
        """The next token of each. Who was a part of a step that failed is tried alone."""
        together = [req for req in reqs if not req.isolated_steps]
        for part in [together, *([req] for req in reqs if req.isolated_steps)]:
            if part:
                self._decode_batch(part)

    def _decode_batch(self, reqs: list[_RequestState]) -> None:
        try:
            outcomes = self._runner.decode([req.sequence for req in reqs])
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._recover_batch(reqs, error)
            return
        for req, outcome in zip(reqs, outcomes, strict=True):
            req.isolated_steps = max(0, req.isolated_steps - 1)
            self._attempt(req, partial(self._accept_token, outcome=outcome))

    def _recover_batch(self, reqs: list[_RequestState], error: BaseException) -> None:
        """A step has failed, and what it did to the states nobody knows.

        Of one request, that is its end. Several read their stories again, and write alone until it shows
        whose fault it was.
        """
        if len(reqs) == 1:
            log.warning("A request failed.", exc_info=error)
            self._finish(reqs[0], "error", error=_reason(error))
            return
        log.warning("A step of %d requests failed; they read again.", len(reqs), exc_info=error)
        for req in reversed(reqs):
            self._attempt(req, self._recompute)

    def _recompute(self, req: _RequestState) -> None:
        self._runner.reset(req.sequence)
        req.input_ids, req.num_prefilled = np.array([*req.prompt_ids, *req.output_ids], np.int32), None
        req.isolated_steps = 2  # the first comes from what it reads now, the second from a step
        with self._changed:
            self._scheduler.preempt(req)

    def _accept_token(self, req: _RequestState, outcome: int | Exception) -> None:
        """A token, or what kept the request from getting one."""
        if isinstance(outcome, Exception):
            raise outcome
        req.phase = "decode"
        if req.healing is not None:
            self._accept_healed(req)
            return
        if outcome in self._tokenizer.stop_ids:
            self._finish(req, "stop")
            return
        req.output_ids.append(outcome)
        self._emit(req, outcome, req.detokenizer.push(outcome), self._logprobs(req))

    def _accept_healed(self, req: _RequestState) -> None:
        """The end of the prompt has been drawn again. What is new of it is shown, and counts as a token."""
        way, req.healing = self._runner.healed_path(req.sequence), None
        assert way is not None
        req.output_ids += [*way.path, way.token]
        if way.adds:
            text = req.detokenizer.push(way.token, skip=len(way.node.left))
            self._emit(req, way.token, text, self._logprobs(req, way.node))

    def _emit(self, req: _RequestState, outcome: int, text: str, detail: tuple[TokenLogprobs, ...]) -> None:
        """Send a new token; after the last one that there may be, the request ends."""
        req.meter.tick(self._clock())
        if req.meter.tokens < req.max_new_tokens:
            self._send(req, text, (outcome,), detail)
        else:
            self._finish(req, req.length_reason, text, (outcome,), detail)

    def _logprobs(self, req: _RequestState, healed: Node | None = None) -> tuple[TokenLogprobs, ...]:
        """What the request wants to know of a token, which may begin with bytes of the prompt."""
        found = self._runner.logprobs(req.sequence) if req.top_logprobs else None
        if found is None:
            return ()
        skip = 0 if healed is None else len(healed.left)

        def with_text(one: TokenLogprob) -> TokenLogprob:
            id = one.token_id
            text = self._tokenizer.token_text(id, skip) if skip else self._tokenizer.token_text(id)
            return TokenLogprob(id, text, one.logprob)

        return (TokenLogprobs(with_text(found.sampled), tuple(map(with_text, found.top_logprobs))),)

    def _send(
        self,
        req: _RequestState,
        text: str = "",
        tokens: tuple[int, ...] = (),
        details: tuple[TokenLogprobs, ...] = (),
    ) -> None:
        now = self._clock()
        if req.sequence is not None and req.throttle.ready(now):
            req.state_bytes = self._runner.state_bytes(req.sequence)
        # Before its prompt is on its way, the device would wait for that.
        if (req.sequence is None or req.num_prefilled is not None) and self._throttle.ready(now):
            self._memory_reading = self._read_memory()
        req.channel.put(TokenChunk(text, tokens, self._stats(req), details))

    def _finish(
        self,
        req: _RequestState,
        reason: str,
        text: str = "",
        tokens: tuple[int, ...] = (),
        details: tuple[TokenLogprobs, ...] = (),
        error: str | None = None,
    ) -> None:
        """Free what the request holds, then send its last chunk."""
        if error is None:
            text += req.detokenizer.flush()
            if req.sequence is not None:
                req.state_bytes = self._runner.state_bytes(req.sequence)
            self._memory_reading = self._read_memory()
        handle, req.sequence, self._memory_full = req.sequence, None, False
        with self._changed:
            self._scheduler.remove(req)
        try:
            if handle is not None:
                self._runner.free(handle, keep_snapshot=error is None)
        except Exception:
            log.exception("The state of a request could not be freed.")
        req.phase, req.queue_position = "done", 0
        req.channel.put(TokenChunk(text, tokens, self._stats(req, reason, error), details))

    def _fail_all(self) -> None:
        """End whatever is left when the engine ends."""
        with self._changed:
            reqs = self._scheduler.requests
            for req in reqs:
                self._scheduler.remove(req)
        for req in reqs:
            req.channel.fail(self._closed or _DIED)

    def _stats(
        self, req: _RequestState, finish_reason: str | None = None, error: str | None = None
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
        )


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
