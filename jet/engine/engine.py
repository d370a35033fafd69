"""LocalEngine: many requests, one model, one thread that uses the device.

    caller's thread   submit ─ tokenize, check ─┐                        ┌─ Stream ─ chunks
    device thread                               └─ schedule → run → send ┘

A step is one prefill chunk, or one token for each decoding request. Requests join and leave between steps,
and an abort takes effect before the next one. An error of one request ends that request, with a message, and
no other.
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
    BusyError,
    EngineInfo,
    Request,
    RequestError,
    RequestStats,
    SamplingParams,
    TokenChunk,
    TokenLogprob,
    TokenLogprobs,
)
from jet.engine.banned import BannedGuard, HeldToken, matcher_of, text_before
from jet.engine.prefill_policy import ChunkedPrefillPolicy
from jet.engine.scheduler import QueueFullError, Scheduler
from jet.engine.stream import Channel, LocalStream
from jet.engine.text.counting import PromptCounting
from jet.engine.text.detokenizer import Detokenizer
from jet.engine.text.ending import Ending, make_ending, overrun_tokens
from jet.engine.text.healing import Healing, HealingPath, Node, NoPathError
from jet.engine.text.word_bias import BiasedSequence, biased_sequences
from jet.hardware import MemoryReading
from jet.telemetry import DecodeMeter, Throttle
from jet.token_ids import Tokens

# Reading memory figures takes longer than a token may, and the page shows no more of them than this.
_MEMORY_INTERVAL_S = 0.1
# How long close() waits for the device thread to finish its step.
_CLOSE_PATIENCE_S = 30.0

_DIED = "The engine has died."

log = logging.getLogger(__name__)


class Runner(Protocol):
    """The model as the engine uses it. `sequence` is the state of one request, opaque to the engine."""

    def capture_next(self) -> bool:
        """Compile or capture a small part of later steps; False if nothing is left."""
        ...

    def allocate(
        self, sampling: SamplingParams, top_logprobs: int, prompt: Tokens, max_tokens: int, cache_salt: str
    ) -> Any:
        """Allocate the state of a new request of up to `max_tokens` tokens, prompt included.

        `top_logprobs`: how many log-probabilities to keep for each token. Raises MemoryError if there is no
        room now.
        """
        ...

    def heal(self, sequence: Any, healing: Healing) -> None:
        """Set the tokens after the prompt, to be drawn again once the prompt has been prefilled."""
        ...

    def healed_path(self, sequence: Any) -> HealingPath | None:
        """Return the tokens drawn by healing; None before that."""
        ...

    def set_min_tokens(self, sequence: Any, tokens: int) -> None:
        """Forbid stop tokens among the first `tokens` of the answer."""
        ...

    def bias(self, sequence: Any, logit_bias: Sequence[tuple[int, float]], raw_logprobs: bool) -> None:
        """Set the logit bias; `raw_logprobs` are taken before bias and penalties."""
        ...

    def bias_words(self, sequence: Any, word_bias: tuple[BiasedSequence, ...]) -> None:
        """Set the bias of words, as token sequences."""
        ...

    def forbid(self, sequence: Any, token_ids: Sequence[int], steps: int) -> None:
        """Forbid tokens among the first `steps` of the answer."""
        ...

    def guard(self, sequence: Any) -> None:
        """Prepare for rollbacks of a new sequence."""
        ...

    def mark(self, sequence: Any, length: int) -> None:
        """Keep what a rollback to `length` tokens or more needs; call it after each token."""
        ...

    def roll_back(
        self,
        sequence: Any,
        length: int,
        num_generated: int,
        barred: tuple[int, ...],
        healing: Healing | None = None,
    ) -> bool:
        """Take back all tokens from `length` on; False if the sequence has to be reset instead."""
        ...

    def score(
        self, sequence: Any, tokens: Tokens, following: Tokens, top_logprobs: int
    ) -> Sequence[TokenLogprobs]:
        """Prefill one chunk of the prompt; return the log-probabilities of the tokens that follow its own."""
        ...

    def restore_prefix(self, sequence: Any, prompt: Tokens) -> int:
        """Restore the longest cached prefix of the prompt; return its number of tokens."""
        ...

    def prefill(self, sequence: Any, tokens: Tokens) -> None:
        """Run one chunk of the prompt."""
        ...

    def synchronize(self, blocking: bool) -> bool:
        """Return whether the prefill has finished; with `blocking`, wait first, so that its time is real."""
        ...

    def decode(self, sequences: Sequence[Any]) -> list[int | Exception]:
        """Return each sequence's next token, or its own error. An exception that is raised concerns all."""
        ...

    def reset(self, sequence: Any) -> None:
        """Empty a lost state; the engine then prefills prompt and output again and continues."""
        ...

    def logprobs(self, sequence: Any) -> TokenLogprobs | None:
        """Return the last token's log-probabilities, without texts; None if the request wants none."""
        ...

    def state_bytes(self, sequence: Any) -> dict[str, int]:
        """Return the bytes of the state by kind: recurrent, conv, window_kv, full_kv."""
        ...

    def free(self, sequence: Any, keep_snapshot: bool) -> None:
        """Free the state, or keep it in the prefix cache."""
        ...

    def close(self) -> None:
        """Release the model."""
        ...


class Tokenizer(Protocol):
    """The tokenizer as the engine uses it."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """Return the tokens that end a text."""
        ...

    def encode(self, prompt: str, max_tokens: int, instruction: str = "", cache_salt: str = "") -> Tokens:
        """Tokenize a prompt to 1 to `max_tokens` tokens. Raises RequestError if that is impossible.

        `instruction`: the user's turn for a chat model. `cache_salt`: the user, whose earlier texts are
        remembered.
        """
        ...

    def encode_healed(
        self, prompt: str, max_tokens: int, instruction: str = "", cache_salt: str = ""
    ) -> tuple[Tokens, Healing | None, Detokenizer]:
        """Return the tokens to prefill, the tokens to draw again (None for none) and a detokenizer."""
        ...

    def normalize_prompt(self, prompt: str) -> str:
        """Return a prompt as `encode_healed` tokenizes it."""
        ...

    def count_prompt(self, prompt: str, instruction: str = "", cache_salt: str = "") -> int:
        """Return the number of tokens that `encode` returns, for a prompt of any length."""
        ...

    def detokenizer(self, prompt: Sequence[int] | Tokens) -> Detokenizer:
        """Return a detokenizer for the tokens after `prompt`."""
        ...

    def token_text(self, token: int, skip: int = 0) -> str:
        """Return the text of a single token, without its first `skip` bytes."""
        ...

    def count(self, text: str) -> int:
        """Return the number of tokens of a text. Raises RequestError if it cannot be tokenized."""
        ...

    def ids_of(self, text: str, cache_salt: str = "") -> Tokens:
        """Return the tokens of a text by itself. Raises RequestError."""
        ...


class StateStorage(Protocol):
    """Stores the states of finished requests, one at a time."""

    def store_next(self) -> bool:
        """Store one; False if none is left."""
        ...

    def forget(self, cache_salt: str) -> None:
        """Remove a user's states from disk and memory; may be called from any thread."""
        ...


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


class _RequestState:
    """One request inside the engine. Once submitted, only the device thread modifies it."""

    def __init__(
        self,
        request: Request,
        prompt: Tokens,
        healing: Healing | None,
        detokenizer: Detokenizer,
        submitted: float,
    ) -> None:
        """`healing`: the tokens after `prompt`, which are drawn again."""
        # Every token of a scored prompt is computed, and its state is not cached.
        self.cache_salt = request.cache_salt if request.prompt_logprobs is None else ""
        self.min_tokens = request.min_tokens
        self.logit_bias, self.raw_logprobs = request.logit_bias, request.raw_logprobs
        self.stop_token_ids = frozenset(request.stop_token_ids)
        self.stop_token_ids_after = request.stop_token_ids_after
        self.word_bias: tuple[BiasedSequence, ...] = ()
        self.prompt_logprobs = request.prompt_logprobs  # None once all have been sent
        self.healing = healing  # None once it has been drawn
        self.healed_end = healing  # the same, for good
        self.guard: BannedGuard | None = None  # of banned phrases
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
        # The tokens to prefill: the prompt, or after a lost state prompt and output.
        self.input_ids = self.prompt_ids
        self.num_prefilled: int | None = None  # tokens of `input_ids`; None before the first chunk
        self.cached_tokens = 0  # tokens of the prompt restored from the prefix cache
        self.output_ids: list[int] = []
        self.isolated_steps = 0  # steps to run alone, since a batch with it has failed
        self.max_new_tokens, self.length_reason = self.sampling.max_new_tokens, "length"
        self.ending: Ending | None = None
        self.overrun = 0  # most tokens past `max_new_tokens`, to end a sentence
        self.state_bytes: dict[str, int] = {}


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
        """`states` stores the states of finished requests while there are no others."""
        self._runner, self._states = runner, states
        self._tokenizer = tokenizer
        # What begins a text must not come where no text may end: it would begin another one.
        self._starting_tokens = frozenset(getattr(tokenizer, "start", ())) - tokenizer.stop_ids
        self._info = info
        self._options = options or EngineOptions()
        self._read_memory = read_memory
        self._clock = clock
        self._memory_reading = read_memory()
        self._throttle = Throttle(_MEMORY_INTERVAL_S)
        self._changed = threading.Condition()  # guards the scheduler and `_closed`
        limits = (
            self._options.max_running_requests,
            self._options.max_running_per_user,
            self._options.max_waiting,
        )
        self._scheduler: Scheduler[_RequestState] = Scheduler(*limits)
        self._prefill_policy = ChunkedPrefillPolicy(
            self._options.prefill_chunk_size, self._options.max_decode_stall_s
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
        """Queue a request. Raises RequestError at once if it can never be served."""
        submitted = self._clock()
        most = self._info.context - 1
        given = (request.prompt, most, request.instruction, request.cache_salt)
        self._check_tokens([token for token, _ in request.logit_bias])
        self._check_tokens(request.stop_token_ids)
        if request.prompt_ids:
            prompt, healing = self._check_ids(request.prompt_ids, most), None
            detokenizer = self._tokenizer.detokenizer(prompt)
        elif request.healing:
            prompt, healing, detokenizer = self._tokenizer.encode_healed(*given)
        else:
            prompt, healing = self._tokenizer.encode(*given), None
            detokenizer = self._tokenizer.detokenizer(prompt)
        req = _RequestState(request, prompt, healing, detokenizer, submitted)
        if request.banned:
            req.guard = self._make_guard(request)
        room = self._info.context - req.prompt_tokens
        if req.max_new_tokens > room:
            req.max_new_tokens, req.length_reason = room, "context"
        if request.word_bias:
            req.word_bias = biased_sequences(request.word_bias, lambda text: self._tokenizer.ids_of(text))
        req.ending = make_ending(request, self._tokenizer.token_text)
        req.overrun = min(overrun_tokens(request.sampling), room - req.max_new_tokens)
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

    def _make_guard(self, request: Request) -> BannedGuard:
        matcher = matcher_of(tuple(request.banned), tuple(request.stop_strings))
        prompt = self.normalize_prompt(request.prompt) if request.healing else request.prompt
        before = text_before(prompt, request.prompt_ids, self._tokenizer.detokenizer(()), matcher)
        vocabulary = self._info.vocabulary
        drawable = None if vocabulary is None else vocabulary - len(self._tokenizer.stop_ids)
        return BannedGuard(matcher, before, drawable)

    def _check_ids(self, ids: Sequence[int], most: int) -> Tokens:
        """Check a prompt of token ids. Raises RequestError if there are too many, or one is no token's."""
        if len(ids) > most:
            raise RequestError(
                f"The prompt is too long: it has {len(ids):,} tokens, and {most:,} fit in the context of "
                "this model with room for one more. Please shorten it."
            )
        self._check_tokens(ids)
        return np.array(ids, np.int32)

    def _check_tokens(self, ids: Sequence[int]) -> None:
        vocabulary = self._info.vocabulary
        if ids and vocabulary is not None and not 0 <= min(ids) <= max(ids) < vocabulary:
            raise RequestError(f"Token ids of this model are from 0 to {vocabulary - 1}.")

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
        """Replace fields of `info()` from now on."""
        self._info = replace(self._info, **facts)

    def forget(self, cache_salt: str) -> None:
        """Remove a user's states, in memory and stored, but for those of requests under way."""
        if self._states is not None:
            self._states.forget(cache_salt)

    def close(self, reason: str = "") -> None:
        """End every stream with an error, stop the device thread and release the model.

        `reason`: says that another model takes over; streams then end as "model_changed".
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
        """Wait for work and run one step; False once the engine is closed."""
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
            self._attempt(req, self._abort)
        if (waiting and self._admit()) or abandoned:
            with self._changed:
                waiting = list(self._scheduler.waiting)
            self._send_queue_positions(waiting)
        # No lock: only this thread admits and removes running requests.
        decoding, prefilling = list(self._scheduler.decoding), self._scheduler.prefilling
        if prefilling and self._prefill_policy.may_prefill(self._clock(), bool(decoding)):
            self._attempt(prefilling[0], self._prefill)
        elif decoding:
            self._decode(decoding)
            self._prefill_policy.record_decode()
        return True

    def _run_when_idle(self) -> None:
        """Capture one more graph, or store a state, while there are no requests.

        After an error, do without the rest.
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

    def _allocate(self, req: _RequestState, others: bool) -> bool:
        """Allocate a request's state and admit it; end it if that fails. False: wait for others to end."""
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

    def _set_bars_and_biases(self, req: _RequestState) -> None:
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

    def _send_queue_positions(self, waiting: list[_RequestState]) -> None:
        for position, req in enumerate(waiting, start=1):
            if req.queue_position != position:
                req.queue_position = position
                self._attempt(req, self._send)

    def _attempt(self, req: _RequestState, act: Callable[[_RequestState], None]) -> None:
        """Do something for a request; an exception ends this request and no other."""
        try:
            act(req)
        except (SystemExit, KeyboardInterrupt):
            raise
        except FloatingPointError as error:  # a fault of the weights, not worth a traceback
            self._finish(req, "error", error=_reason(error))
        except BaseException as error:  # a panic in the tokenizer is not an Exception
            log.warning("A request failed.", exc_info=True)
            self._finish(req, "error", error=_reason(error))

    def _abort(self, req: _RequestState) -> None:
        if req.guard is not None:
            self._end_guarded(req, req.guard, "aborted")
        else:
            self._finish(req, "aborted")

    def _start(self, req: _RequestState) -> None:
        req.phase, req.queue_position = "prefill", 0
        self._send(req)

    def _prefill(self, req: _RequestState) -> None:
        """Run one chunk of a request's prompt; after the last one, draw its first token."""
        if req.num_prefilled is None:
            req.num_prefilled = self._runner.restore_prefix(req.sequence, req.input_ids)
            req.cached_tokens = req.cached_tokens or min(req.num_prefilled, len(req.prompt_ids))
        with self._changed:
            others = bool(self._scheduler.decoding)
        if req.num_prefilled < len(req.input_ids):
            started = self._clock()
            end = req.num_prefilled + self._prefill_policy.chunk_size(others)
            chunk = req.input_ids[req.num_prefilled : end]
            if req.prompt_logprobs is None:
                self._runner.prefill(req.sequence, chunk)
            else:
                self._score(req, chunk, req.prompt_logprobs)
            # Blocking costs nothing if others decode: their next step would wait for the chunk anyway.
            synchronized = self._runner.synchronize(blocking=others)
            req.num_prefilled += len(chunk)
            now = self._clock()
            self._prefill_policy.record_chunk(len(chunk), now - started, now, synchronized)
        if req.num_prefilled < len(req.input_ids):
            self._send(req)
            return
        self._memory_full = False  # a waiting request with the same prefix needs fewer pages now
        with self._changed:
            self._scheduler.finish_prefill(req)
        self._decode([req])

    def _score(self, req: _RequestState, chunk: Tokens, top_logprobs: int) -> None:
        """Prefill a chunk of the prompt and send the log-probabilities of the tokens that follow its own."""
        assert req.num_prefilled is not None
        following = req.input_ids[req.num_prefilled + 1 : req.num_prefilled + 1 + len(chunk)]
        found = self._runner.score(req.sequence, chunk, following, top_logprobs)
        logprobs = tuple(map(self._describe, found))
        req.channel.put(TokenChunk("", (), self._stats(req), prompt_logprobs=logprobs))
        if req.num_prefilled + len(chunk) == len(req.input_ids):
            req.prompt_logprobs = None

    def _decode(self, reqs: list[_RequestState]) -> None:
        """Run a decode step; requests whose batch has failed run in batches of their own."""
        shared = [req for req in reqs if not req.isolated_steps]
        for batch in [shared, *([req] for req in reqs if req.isolated_steps)]:
            if batch:
                self._decode_batch(batch)

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

    def _recompute(self, req: _RequestState) -> None:
        self._runner.reset(req.sequence)
        req.input_ids, req.num_prefilled = np.array([*req.prompt_ids, *req.output_ids], np.int32), None
        req.isolated_steps = 2  # the first token follows its prefill, the second a decode step
        with self._changed:
            self._scheduler.preempt(req)

    def _accept_token(self, req: _RequestState, outcome: int | Exception) -> None:
        """Accept the outcome of a step: a token, or the error that ends the request."""
        if isinstance(outcome, NoPathError) and req.guard is not None:
            self._end_guarded(req, req.guard, "banned", clean=False)
            return
        if isinstance(outcome, Exception):
            raise outcome
        req.phase = "decode"
        if req.guard is not None:
            self._accept_guarded(req, req.guard, outcome)
            return
        if req.healing is not None:
            self._accept_healed(req)
            return
        if outcome in self._tokenizer.stop_ids or outcome in req.stop_token_ids:
            logprobs = self._logprobs(req) if req.raw_logprobs else ()
            self._finish(req, "stop", logprobs=logprobs)
            return
        req.output_ids.append(outcome)
        self._emit(req, outcome, req.detokenizer.push(outcome), self._logprobs(req))

    def _accept_guarded(self, req: _RequestState, guard: BannedGuard, token: int) -> None:
        """Accept a token of a request with banned phrases; send what can no longer be taken back."""
        index, before = len(req.output_ids), req.detokenizer.copy()
        completed: int | None = None
        if req.healing is not None:
            healed, req.healing = self._runner.healed_path(req.sequence), None
            assert healed is not None
            req.output_ids += [*healed.path, healed.token]
            if healed.adds:
                text = req.detokenizer.push(healed.token, skip=len(healed.node.left))
                logprobs = self._logprobs(req, healed.node)
                completed = guard.push(healed.token, text, logprobs, index, before)
        elif token in self._tokenizer.stop_ids or token in req.stop_token_ids:
            self._end_guarded(req, guard, "stop", self._logprobs(req) if req.raw_logprobs else ())
            return
        else:
            req.output_ids.append(token)
            text = req.detokenizer.push(token)
            completed = guard.push(token, text, self._logprobs(req), index, before)
        if completed is not None:
            self._draw_again(req, guard, completed)
            return
        self._send_held(req, guard.release())
        if req.ending is not None and req.ending.done:
            self._finish(req, req.length_reason)
            return
        if req.meter.tokens + len(guard.held) >= req.max_new_tokens + req.overrun:
            self._end_guarded(req, guard, req.length_reason)
            return
        kept = guard.held[0].index if guard.held else len(req.output_ids)
        self._runner.mark(req.sequence, len(req.prompt_ids) + kept)

    def _end_guarded(
        self,
        req: _RequestState,
        guard: BannedGuard,
        reason: str,
        logprobs: tuple[TokenLogprobs, ...] = (),
        clean: bool = True,
    ) -> None:
        """End a request with banned phrases, unless a phrase would be complete: then draw again.

        An aborted request ends in front of the phrase, and so does one that has no other way to go on.
        `clean`: whether its state is of use to later requests.
        """
        ended = guard.banned_if_ended()
        if ended is not None and reason not in ("aborted", "banned"):
            self._draw_again(req, guard, ended)
            return
        while ended is not None:
            clean = self._go_back(req, guard, ended, ()) and clean
            ended = guard.banned_if_ended()
        self._send_held(req, guard.release_all())
        self._finish(req, reason, logprobs=logprobs, keep_snapshot=clean)

    def _draw_again(self, req: _RequestState, guard: BannedGuard, number: int) -> None:
        """Go back to before a banned phrase, which begins in `guard.held[number]`, and draw there again.

        Where that has failed too often, the request ends there.
        """
        choice = guard.choose(number)
        if choice is None:
            self._end_guarded(req, guard, "banned", clean=self._go_back(req, guard, number, ()))
        elif not self._go_back(req, guard, *choice):
            self._recompute(req)

    def _go_back(self, req: _RequestState, guard: BannedGuard, number: int, barred: tuple[int, ...]) -> bool:
        """Take back `guard.held[number]` and all behind it; False if the state could not be restored."""
        one = guard.take_back(number)
        del req.output_ids[one.index :]
        req.detokenizer = one.detokenizer
        is_healed = one.index == 0 and req.healed_end is not None
        req.healing = req.healed_end if is_healed else None
        length, generated = len(req.prompt_ids) + one.index, req.meter.tokens + len(guard.held)
        return self._runner.roll_back(req.sequence, length, generated, barred, req.healing)

    def _send_held(self, req: _RequestState, tokens: Sequence[HeldToken]) -> None:
        """Send tokens that have been held back; none behind the end of the answer's last sentence."""
        now, text, ids, logprobs = self._clock(), "", list[int](), list[TokenLogprobs]()
        for one in tokens:
            if req.ending is not None and req.ending.done:
                break
            req.meter.tick(now)
            shown, details = self._show(req, one.text, one.logprobs)
            text += shown
            ids.append(one.token)
            logprobs += details
        if ids:
            self._send(req, text, tuple(ids), tuple(logprobs))

    def _accept_healed(self, req: _RequestState) -> None:
        """Accept the healed end of the prompt; text beyond the prompt is sent and counts as a token."""
        healed, req.healing = self._runner.healed_path(req.sequence), None
        assert healed is not None
        req.output_ids += [*healed.path, healed.token]
        if healed.adds:
            text = req.detokenizer.push(healed.token, skip=len(healed.node.left))
            self._emit(req, healed.token, text, self._logprobs(req, healed.node))

    def _emit(self, req: _RequestState, token: int, text: str, logprobs: tuple[TokenLogprobs, ...]) -> None:
        """Send a new token; the last one allowed ends the request."""
        req.meter.tick(self._clock())
        text, logprobs = self._show(req, text, logprobs)
        done = req.ending is not None and req.ending.done
        if done or req.meter.tokens >= req.max_new_tokens + req.overrun:
            self._finish(req, req.length_reason, text, (token,), logprobs)
        else:
            self._send(req, text, (token,), logprobs)

    def _show(
        self, req: _RequestState, text: str, logprobs: tuple[TokenLogprobs, ...]
    ) -> tuple[str, tuple[TokenLogprobs, ...]]:
        """Return what is to be shown of a counted token: past the asked length, only what ends a sentence."""
        if req.ending is None:
            return text, logprobs
        left = req.max_new_tokens - req.meter.tokens
        shown = req.ending.push(text, None if left > 0 else float(left == 0))
        return shown, logprobs if shown or not req.ending.done else ()

    def _logprobs(self, req: _RequestState, healed: Node | None = None) -> tuple[TokenLogprobs, ...]:
        """Return the last token's log-probabilities with texts; those of `healed` skip the prompt's bytes."""
        found = self._runner.logprobs(req.sequence) if req.top_logprobs else None
        if found is None:
            return ()
        return (self._describe(found, 0 if healed is None else len(healed.left)),)

    def _describe(self, found: TokenLogprobs, skip: int = 0) -> TokenLogprobs:
        """Add texts to a token's log-probabilities, without the first `skip` bytes."""

        def with_text(one: TokenLogprob) -> TokenLogprob:
            id = one.token_id
            text = self._tokenizer.token_text(id, skip) if skip else self._tokenizer.token_text(id)
            return TokenLogprob(id, text, one.logprob)

        return TokenLogprobs(with_text(found.sampled), tuple(map(with_text, found.top_logprobs)))

    def _send(
        self,
        req: _RequestState,
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
        req: _RequestState,
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
            unfinished="" if req.ending is None else req.ending.unfinished,
        )


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
