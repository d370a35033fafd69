"""ZeroGpuEngine: an engine whose GPU is lent for each request, as Hugging Face's ZeroGPU does it.

    this process     submit ── stream ── chunks
    one with a GPU   `write`: the resident engine of that process, a plain generator

ZeroGPU forks a process for a call and pickles what goes in and what comes out. What changes there is not seen
here, so the numbers travel with the text. Such a process is kept for a while, and its model with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from transformers import GenerationConfig

from jet import hardware
from jet.api import EngineInfo, Request, RequestError, RequestStats, TokenChunk
from jet.engine import hub, loading
from jet.engine.holder import ModelHolder
from jet.engine.loading import OFFICIAL_MODEL, STORY_MODEL, LocalConfig
from jet.modeling import JetNemotronForCausalLM
from jet.modeling.checkpoint import check_folder, read_config

Write = Callable[[LocalConfig, Request, float], Iterator[TokenChunk]]

_LONGEST_S = 120  # that a GPU is asked for: the shorter, the sooner it is lent
_BEGIN_S = 40  # of it for loading the model and reading the prompt
_BROKEN = "The GPU was taken back before the story ended."
_TOKENS_PER_S = 50  # a careful guess, for how long a request may take

# Of the process that has the GPU. In the one that serves the page it stays empty.
_HERE = ModelHolder()


def write(config: LocalConfig, request: Request, interval_s: float) -> Iterator[TokenChunk]:
    """What runs where the GPU is: the chunks of one request. Left early, it ends the request."""
    stream = _HERE.engine(config).submit(request)
    try:
        yield from stream.chunks(interval_s)
    finally:
        stream.abort()


def seconds(config: LocalConfig, request: Request, interval_s: float) -> int:
    """How long the GPU is to be lent for a request; takes what `write` takes."""
    return min(_LONGEST_S, _BEGIN_S + request.sampling.max_new_tokens // _TOKENS_PER_S)


@dataclass(frozen=True)
class ZeroGpuConfig:
    """A choice of model for a lent GPU, and `write` as its lender wraps it."""

    config: LocalConfig
    write: Write = field(compare=False)

    def create(self) -> ZeroGpuEngine:
        """Find the checkpoint and read what is to be known without its weights. Raises CheckpointError."""
        wanted = self.config.model or (OFFICIAL_MODEL if hub.is_available(OFFICIAL_MODEL) else STORY_MODEL)
        name, folder = loading.find(wanted, self.config.revision)
        return ZeroGpuEngine(replace(self.config, model=folder, revision=None), name, self.write)


class ZeroGpuEngine:
    """`jet.api.Engine` says what its methods promise. It holds no weights."""

    def __init__(self, config: LocalConfig, name: str, write: Write) -> None:
        self._config = config
        self._write = write
        self._closed = False
        model = _outline(str(config.model))
        self._tokenizer = loading.load_tokenizer(str(config.model), model)
        info = loading.describe(name, model, load_s=0.0)
        self._info = replace(
            info,
            device="cuda",
            device_name="a GPU on demand",
            dtype=None if config.dtype == "auto" else config.dtype,
            kernels={},
            context=min(config.context or info.context, info.context),
            load_s=None,
            warmup_s=None,
            placement="zerogpu",
            chat_tokens=self._tokenizer.chat_tokens,
        )

    @property
    def alive(self) -> bool:
        """Whether requests are taken."""
        return not self._closed

    def submit(self, request: Request) -> ZeroGpuStream:
        """A stream that asks for the GPU when it is read. Raises RequestError if it can never be served."""
        if self._closed:
            raise RequestError("The engine has been closed.")
        self._tokenizer.encode(
            request.prompt, self._info.context - 1, request.instruction, request.cache_salt
        )
        return ZeroGpuStream(
            self._write, self._config, replace(request, sampling=request.sampling.with_seed())
        )

    def info(self) -> EngineInfo:
        """What runs a request; of memory, only this process' own is known between them."""
        reading = hardware.read_process_memory()
        return replace(self._info, process_memory_bytes=reading.process_memory_bytes)

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

    def close(self) -> None:
        """Take no more requests. Those under way are their readers' to end."""
        self._closed = True


class ZeroGpuStream:
    """The chunks of one request; see `jet.api.Stream`. The reader's thread does the waiting."""

    def __init__(self, write: Write, config: LocalConfig, request: Request) -> None:
        self._write = write
        self._config = config
        self._request = request
        self._stats = RequestStats(seed=request.sampling.seed)
        self._aborted = False

    def __iter__(self) -> Iterator[TokenChunk]:
        """One chunk after the other, as the engine made them."""
        return self.chunks()

    def chunks(self, interval_s: float = 0.0) -> Iterator[TokenChunk]:
        """Chunks merged where the GPU is, so that at most one comes per `interval_s`."""
        yield TokenChunk("", (), self._stats)
        try:
            if not self._aborted:
                yield from self._lent(interval_s)
        except Exception as error:
            reason = str(getattr(error, "message", "") or error) or type(error).__name__
            yield self._end("error", f"No GPU could be had for this: {reason}")
            return
        if self._stats.finish_reason is None:
            yield self._end("aborted" if self._aborted else "error", None if self._aborted else _BROKEN)

    def _lent(self, interval_s: float) -> Iterator[TokenChunk]:
        with closing(self._write(self._config, self._request, interval_s)) as chunks:  # type: ignore[type-var]
            for chunk in chunks:
                self._stats = chunk.stats
                yield chunk
                if self._aborted:
                    return

    def abort(self) -> None:
        """Ask for the end; takes effect when the next chunk comes, which gives the GPU back."""
        self._aborted = True

    def _end(self, reason: str, error: str | None = None) -> TokenChunk:
        return TokenChunk("", (), replace(self._stats, phase="done", finish_reason=reason, error=error))


def _outline(folder: str) -> JetNemotronForCausalLM:
    """The network of a checkpoint without its weights."""
    check_folder(Path(folder))
    with torch.device("meta"):
        model = JetNemotronForCausalLM(read_config(Path(folder)))
    if (Path(folder) / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model
