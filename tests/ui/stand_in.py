"""An engine without a model, to test the page. Tests set its speed, failures and queue.

The words of a story are its first letter with a counter, "A0 A1 A2 …", so that a test can tell stories apart.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import log

from jet.api import (
    Engine,
    EngineInfo,
    Request,
    RequestError,
    RequestStats,
    TokenChunk,
    TokenLogprob,
    TokenLogprobs,
)
from jet.roofline import Footprint

# Of the size of the story model's; the floor of a short story is about 1,000 tokens a second.
FOOTPRINT = Footprint(44_000_000, 500_000, 50_000, 255, 2**13, 2**11, 9 * 2**11)


@dataclass
class StandInEngine:
    """An engine without a model, whose behavior a test sets by its attributes.

    Attributes:
        tokens_per_second: speed of each story; there is one token a word.
        prefill_s: seconds from being served to the first token.
        fail_after: number of tokens after which the stream raises an error; None never does.
        closed: end every story before its first word, unless the request has `min_tokens`.
        deaf: do not react to an abort, like an engine in the middle of a long step.
        slots: stories served at once; the others wait in line.
        context: number of words from which a prompt is refused.
        live: requests that hold a slot or wait for one.
        requests: all requests that were accepted.
        aborted_at: times at which live requests were aborted (`time.monotonic`).
        chat_tokens: tokens of the chat template; None means that the model has none.
        unfinished: text written after the last sentence if a request wants to end at a sentence.
        ended_at: time at which the latest request had all its tokens (`time.time`).
        checkpoint: identity of the model's files.
    """

    tokens_per_second: float = 200.0
    prefill_s: float = 0.02
    fail_after: int | None = None
    deaf: bool = False
    closed: bool = False
    slots: int = 4
    context: int = 1_000
    live: list[StandInStream] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    aborted_at: list[float] = field(default_factory=list)
    ended_at: float = 0.0
    chat_tokens: int | None = None
    unfinished: str = ""
    checkpoint: str | None = None

    @property
    def alive(self) -> bool:
        return True

    def __post_init__(self) -> None:
        self.changed = threading.Condition()

    def submit(self, request: Request) -> StandInStream:
        words = len(request.prompt.split())
        if words >= self.context:
            raise RequestError(f"The text has {words} tokens, and this model reads at most {self.context}.")
        stream = StandInStream(self, request, words)
        with self.changed:
            self.requests.append(request)
            self.live.append(stream)
        return stream

    def info(self) -> EngineInfo:
        return EngineInfo(
            model="stand-in <model>",
            parameters=22_000_000,
            device="cpu",
            device_name="a processor, 2 threads",
            dtype="float32",
            attention="sdpa",
            kernels={"gated_delta": "torch"},
            context=self.context,
            license="Apache-2.0",
            load_s=1.25,
            warmup_s=0.5,
            footprint=FOOTPRINT,
            bandwidth=45e9,
            chat_tokens=self.chat_tokens,
            checkpoint=self.checkpoint,
            active_requests=len(self.live[: self.slots]),
            queued_requests=len(self.live[self.slots :]),
            process_memory_bytes=512 * 2**20,
        )

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def count_prompt(self, request: Request) -> int:
        return (
            len(request.prompt.split())
            + len(request.instruction.split())
            + (self.chat_tokens or 0) * bool(request.instruction)
        )

    def normalize_prompt(self, prompt: str) -> str:
        return prompt.rstrip(" \t\u00a0") + " " if prompt.endswith((" ", "\t", "\u00a0")) else prompt

    def close(self, reason: str = "") -> None:
        for stream in list(self.live):
            stream.abort()

    def leave(self, stream: StandInStream) -> None:
        """Remove a stream from the queue, if it is still in it."""
        with self.changed:
            if stream in self.live:
                self.live.remove(stream)
                self.changed.notify_all()


class StandInStream:
    """One story of a `StandInEngine`; time passes while it is iterated."""

    def __init__(self, engine: StandInEngine, request: Request, prompt_tokens: int) -> None:
        self._engine = engine
        self._request = request
        self._aborted = False
        self._stats = RequestStats(
            prompt_tokens=prompt_tokens,
            seed=request.sampling.seed,
            process_memory_bytes=512 * 2**20,
        )

    def __iter__(self) -> Iterator[TokenChunk]:
        return self.chunks()

    def abort(self) -> None:
        self._aborted = True
        if self in self._engine.live:
            self._engine.aborted_at.append(time.monotonic())
        if not self._engine.deaf:
            self._engine.leave(self)

    def chunks(self, interval_s: float = 0.0) -> Iterator[TokenChunk]:
        try:
            yield TokenChunk("", (), self._stats)
            yield from self._wait_in_line()
            self._stats = replace(self._stats, phase="prefill", queue_position=0)
            yield TokenChunk("", (), self._stats)
            self._sleep(self._engine.prefill_s)
            yield from self._decode(interval_s)
        finally:
            self._engine.leave(self)

    def _wait_in_line(self) -> Iterator[TokenChunk]:
        while (position := self._position()) > 0 and not self._stopped:
            self._stats = replace(self._stats, queue_position=position)
            yield TokenChunk("", (), self._stats)
            with self._engine.changed:
                self._engine.changed.wait(0.05)

    def _decode(self, interval_s: float) -> Iterator[TokenChunk]:
        speed, wanted = self._engine.tokens_per_second, self._request.sampling.max_new_tokens
        letter, wants = (self._request.prompt.strip() or "X")[0], self._request.top_logprobs
        started = time.monotonic()
        written = 0
        if self._engine.closed and not self._request.min_tokens:
            yield TokenChunk("", (), replace(self._stats, phase="done", finish_reason="stop"))
            return
        while written < wanted and not self._stopped:
            self._sleep(max(interval_s, 1 / speed))
            due = min(wanted, max(written + 1, int((time.monotonic() - started) * speed)))
            if self._engine.fail_after is not None and due > self._engine.fail_after:
                raise RuntimeError("the device caught <b>fire</b>")
            text = "".join(f" {letter}{index}" for index in range(written, due))
            self._stats = self._numbers(due, time.monotonic() - started)
            details = tuple(self._detail(letter, index) for index in range(written, due))
            yield TokenChunk(text, tuple(range(written, due)), self._stats, details if wants else ())
            written = due
        self._engine.ended_at = time.time()
        reason = "aborted" if self._stopped else "length"
        rest = self._engine.unfinished if self._request.sampling.end_at != "none" else ""
        stats = replace(self._stats, phase="done", finish_reason=reason, unfinished=rest)
        self._engine.leave(self)  # a request has ended when its last chunk is sent, not when it is read
        yield TokenChunk(rest, (), stats)

    def _detail(self, letter: str, index: int) -> TokenLogprobs:
        """Return log-probabilities of the drawn word and of others; every fifth word is unlikely."""
        words = [TokenLogprob(index, f" {letter}{index}", log(0.1 if index % 5 == 3 else 0.6))]
        for other, probability in (("else", 0.2), ("never", 0.1), ("maybe", 0.05)):
            words.append(TokenLogprob(100_000 + len(words), f" {other}{index}", log(probability)))
        likeliest = sorted(words, key=lambda word: -word.logprob)
        return TokenLogprobs(words[0], tuple(likeliest[: self._request.top_logprobs]))

    def _numbers(self, tokens: int, elapsed_s: float) -> RequestStats:
        return replace(
            self._stats,
            phase="decode",
            active_requests=len(self._engine.live[: self._engine.slots]),
            queued_requests=len(self._engine.live[self._engine.slots :]),
            tokens=tokens,
            tokens_per_second=self._engine.tokens_per_second,
            mean_tokens_per_second=tokens / elapsed_s,
            time_to_first_token_s=self._engine.prefill_s,
            recurrent_bytes=27 * 2**20,
            conv_bytes=576 * 2**10,
            window_kv_bytes=min(tokens, 256) * 8 * 2**10,
            full_kv_bytes=(self._stats.prompt_tokens + tokens) * 2 * 2**10,
        )

    def _position(self) -> int:
        with self._engine.changed:
            line = self._engine.live
            return max(0, line.index(self) - self._engine.slots + 1) if self in line else 0

    @property
    def _stopped(self) -> bool:
        return self._aborted and not self._engine.deaf

    def _sleep(self, duration_s: float) -> None:
        end = time.monotonic() + duration_s
        while not self._stopped and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.02))


class StandInSource:
    """Handle of the engine; it can pretend that the model is still loading, or failed to load."""

    def __init__(self) -> None:
        self.stand_in = StandInEngine()
        self.error: Exception | None = None
        self.progress: str | None = None
        self._loaded = threading.Event()
        self.reset()

    def reset(self) -> None:
        """Restore the initial state: loaded, at the default speed."""
        self.stand_in.close()
        self.stand_in.__dict__.update(StandInEngine().__dict__)
        self.error = self.progress = None
        self._loaded.set()

    def unload(self) -> None:
        """Pretend to load the model, until `load` is called."""
        self._loaded.clear()

    def load(self, error: Exception | None = None) -> None:
        """Finish loading the model, or fail with an error."""
        self.error = error
        self._loaded.set()

    @property
    def ready(self) -> bool:
        return self._loaded.is_set()

    def engine(self) -> Engine:
        self._loaded.wait()
        if self.error is not None:
            raise self.error
        return self.stand_in
