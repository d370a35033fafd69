"""A fake model and a fake tokenizer without torch, for tests of what the engine does with them."""

from __future__ import annotations

import codecs
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from jet.api import (
    EngineInfo,
    Request,
    RequestError,
    SamplingParams,
    TokenChunk,
    TokenLogprob,
    TokenLogprobs,
)
from jet.engine.engine import EngineOptions, LocalEngine
from jet.engine.stream import LocalStream
from jet.token_ids import Tokens

END = 256
INFO = EngineInfo(
    model="fake",
    parameters=1,
    device="cpu",
    device_name="fake",
    dtype="float32",
    attention="none",
    kernels={},
    context=200,
    license="none",
    load_s=0.0,
    warmup_s=0.0,
)


class ByteDetokenizer:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(bytes([token]))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class ByteTokenizer:
    """A tokenizer whose tokens are bytes; token 256 ends a story."""

    stop_ids = frozenset({END})

    def encode(self, prompt: str, max_tokens: int, instruction: str = "", cache_salt: str = "") -> Tokens:
        ids = list(prompt.encode()) or [END]
        if len(ids) > max_tokens:
            raise RequestError(f"{len(ids)} tokens, {max_tokens} fit")
        return np.array(ids, np.int32)

    def detokenizer(self, prompt: Sequence[int] | Tokens) -> ByteDetokenizer:
        return ByteDetokenizer()

    def token_text(self, token: int) -> str:
        return chr(token)


@dataclass(eq=False)
class FakeSequence:
    prompt: bytearray = field(default_factory=bytearray)
    written: int = 0
    freed: bool = False
    kept: bool = False
    was_reset: bool = False
    user: str = ""
    tokens: int = 0

    @property
    def name(self) -> str:
        return self.prompt.decode()


class FakeRunner:
    """Answers every prompt P with `story(P)`, and records its calls.

    Attributes:
        log: (prompt, call) for every call, in order.
        faults: exceptions to raise, by (prompt, call). The call "step 3" draws this prompt's third token, and
            "step" any token. The call "kernel 3" fails the whole batch that draws this prompt's third token.
        room: number of requests that fit into memory at a time.
    """

    max_packed = 0

    def __init__(self, story: Callable[[str], str] = "the story of {}. ".format, gated: bool = False) -> None:
        self.story = story
        self.log: list[tuple[str, str]] = []
        self.faults: dict[tuple[str, str], BaseException] = {}
        self.sequences: list[FakeSequence] = []
        self.batches: list[list[str]] = []  # names of each batch
        self.resident: dict[str, list[bytes]] = {}
        self.room = 1000
        self.closed = False
        self._permits = threading.Semaphore(0) if gated else None

    def capture_next(self) -> bool:
        return False

    def allow(self, steps: int) -> None:
        """Let a gated runner do this many more prefills and steps."""
        assert self._permits is not None
        self._permits.release(steps)

    @property
    def live(self) -> list[FakeSequence]:
        return [sequence for sequence in self.sequences if not sequence.freed]

    def calls(self) -> int:
        return sum(what in ("prefill", "step") for _, what in self.log)

    def allocate(
        self, sampling: SamplingParams, top_logprobs: int, prompt: Tokens, max_tokens: int, cache_salt: str
    ) -> FakeSequence:
        self._note("", "allocate")
        if len(self.live) >= self.room:
            raise MemoryError("no room for another")
        self.sequences.append(FakeSequence(user=cache_salt, tokens=max_tokens))
        return self.sequences[-1]

    def restore_prefix(self, sequence: FakeSequence, prompt: Sequence[int]) -> int:
        read = bytes(token for token in prompt if token != END)
        self._note(read.decode(), "restore_prefix")
        beginning = max(
            self.resident.get(sequence.user, [b""]), key=lambda one: len(one) * read.startswith(one)
        )
        beginning = beginning if read.startswith(beginning) else b""
        sequence.prompt += beginning
        return len(beginning)

    def prefill(self, sequence: FakeSequence, tokens: Sequence[int]) -> None:
        self._wait()
        sequence.prompt += bytes(int(token) for token in tokens if token != END)
        if sequence.was_reset:  # then the prompt and what had been written of the story are read
            written = self.story(sequence.name).encode()[: sequence.written]
            sequence.prompt = bytearray(bytes(sequence.prompt).removesuffix(written))
        self._note(sequence.name, "prefill")

    def prefill_packed(
        self, sequences: Sequence[FakeSequence], chunks: Sequence[Tokens]
    ) -> list[MemoryError | None]:
        raise NotImplementedError

    def synchronize(self, blocking: bool) -> bool:
        if blocking:
            self._note("", "synchronize")
        return True

    def decode(self, sequences: Sequence[FakeSequence]) -> list[int | Exception]:
        self.batches.append([sequence.name for sequence in sequences])
        for sequence in sequences:
            self._note(sequence.name, f"kernel {sequence.written + 1}", log=False)
        return [self._step(sequence) for sequence in sequences]

    def _step(self, sequence: FakeSequence) -> int | Exception:
        self._wait()
        text = self.story(sequence.name).encode()
        sequence.written += 1
        try:
            self._note(sequence.name, f"step {sequence.written}", log=False)
            self._note(sequence.name, "step")
        except Exception as error:
            return error
        return text[sequence.written - 1] if sequence.written <= len(text) else END

    def reset(self, sequence: FakeSequence) -> None:
        self._note(sequence.name, "reset")
        sequence.prompt.clear()
        sequence.was_reset = True

    def logprobs(self, sequence: FakeSequence) -> TokenLogprobs | None:
        drawn = self.story(sequence.name).encode()[sequence.written - 1]
        likely = TokenLogprob(drawn, "", -0.5)
        return TokenLogprobs(likely, (likely, TokenLogprob(63, "", -1.5)))

    def state_bytes(self, sequence: FakeSequence) -> dict[str, int]:
        self._note(sequence.name, "memory")
        return {
            "recurrent": 100,
            "conv": 10,
            "window_kv": 5,
            "full_kv": len(sequence.prompt) + sequence.written,
        }

    def free(self, sequence: FakeSequence, keep_snapshot: bool) -> None:
        assert not sequence.freed
        sequence.freed, sequence.kept = True, keep_snapshot
        self._note(sequence.name, "free")

    def close(self) -> None:
        self.closed = True

    def _wait(self) -> None:
        if self._permits is not None and not self._permits.acquire(timeout=10):
            raise AssertionError("the test never allowed this step")

    def _note(self, name: str, what: str, log: bool = True) -> None:
        if log:
            self.log.append((name, what))
        if (name, what) in self.faults:
            raise self.faults[name, what]


def make_engine(runner: FakeRunner, context: int = 200, **options: int) -> LocalEngine:
    return LocalEngine(runner, ByteTokenizer(), replace(INFO, context=context), EngineOptions(**options))


def ask(engine: LocalEngine, prompt: str, tokens: int = 100, user: str = "") -> LocalStream:
    return engine.submit(Request(prompt, SamplingParams(max_new_tokens=tokens), cache_salt=user))


def text_of(chunks: Sequence[TokenChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)
