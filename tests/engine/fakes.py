"""A model and a tokenizer that need no torch: what the engine does with them is what is tested."""

from __future__ import annotations

import codecs
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from jet.engine.engine import EngineOptions, LocalEngine
from jet.engine.stepping import Detail
from jet.engine.stream import LocalStream
from jet.engine.types import EngineInfo, Request, RequestError, SamplingParams, TokenChunk

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
    licence="none",
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
    """A token is a byte, and 256 ends a story."""

    stop_ids = frozenset({END})

    def encode(self, prompt: str, most: int) -> list[int]:
        ids = list(prompt.encode()) or [END]
        if len(ids) > most:
            raise RequestError(f"{len(ids)} tokens, {most} fit")
        return ids

    def detokenizer(self, prompt: Sequence[int]) -> ByteDetokenizer:
        return ByteDetokenizer()

    def text_of(self, token: int) -> str:
        return chr(token)


@dataclass(eq=False)
class Handle:
    prompt: bytearray = field(default_factory=bytearray)
    written: int = 0
    released: bool = False

    @property
    def name(self) -> str:
        return self.prompt.decode()


class FakeRunner:
    """Answers every prompt P with `story(P)`, and writes down what it was asked to do.

    Attributes:
        log: (prompt, what) for every call, in order.
        faults: what to raise, by (prompt, what); "step" may be given as "step 3" for the third token.
    """

    def __init__(self, story: Callable[[str], str] = "the story of {}. ".format, gated: bool = False) -> None:
        self.story = story
        self.log: list[tuple[str, str]] = []
        self.faults: dict[tuple[str, str], BaseException] = {}
        self.handles: list[Handle] = []
        self.closed = False
        self._permits = threading.Semaphore(0) if gated else None

    def allow(self, steps: int) -> None:
        """Let a gated runner do this many more prefills and steps."""
        assert self._permits is not None
        self._permits.release(steps)

    @property
    def live(self) -> list[Handle]:
        return [handle for handle in self.handles if not handle.released]

    def calls(self) -> int:
        return sum(what in ("prefill", "step") for _, what in self.log)

    def open(self, sampling: SamplingParams, alternatives: int) -> Handle:
        self._note("", "open")
        self.handles.append(Handle())
        return self.handles[-1]

    def prefill(self, handle: Handle, tokens: list[int]) -> None:
        self._wait()
        handle.prompt += bytes(token for token in tokens if token != END)
        self._note(handle.name, "prefill")

    def step(self, handle: Handle) -> int:
        self._wait()
        text = self.story(handle.name).encode()
        handle.written += 1
        self._note(handle.name, f"step {handle.written}", log=False)
        self._note(handle.name, "step")
        return text[handle.written - 1] if handle.written <= len(text) else END

    def detail(self, handle: Handle) -> Detail | None:
        drawn = self.story(handle.name).encode()[handle.written - 1]
        return Detail(-0.5, [drawn, 63], [-0.5, -1.5])

    def memory(self, handle: Handle) -> dict[str, int]:
        self._note(handle.name, "memory")
        return {"recurrent": 100, "conv": 10, "window_kv": 5, "full_kv": len(handle.prompt) + handle.written}

    def release(self, handle: Handle) -> None:
        assert not handle.released
        handle.released = True
        self._note(handle.name, "release")

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


def ask(engine: LocalEngine, prompt: str, tokens: int = 100) -> LocalStream:
    return engine.submit(Request(prompt, SamplingParams(max_new_tokens=tokens)))


def text_of(chunks: Sequence[TokenChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)
