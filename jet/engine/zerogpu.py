"""ZeroGpuEngine: an engine on a GPU that is lent for each request, as by Hugging Face's ZeroGPU.

    this process   submit ── stream ── chunks
    GPU process    `generate`: a generator on the local engine of that process

ZeroGPU forks a process for a call and pickles arguments and results. This process does not see changes that
the GPU process makes, so stats travel with the text. The GPU process and its model are kept for a while.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from transformers import GenerationConfig

from jet import hardware
from jet.api import EngineInfo, Request, RequestError, RequestStats, TokenChunk
from jet.engine import heeds, hub, loading
from jet.engine.banned import matcher_of
from jet.engine.holder import ModelHolder
from jet.engine.loading import OFFICIAL_MODEL, STORY_MODEL, LocalConfig
from jet.engine.text.counting import PromptCounting
from jet.engine.text.tokenizer import StoryTokenizer
from jet.modeling import JetNemotronForCausalLM
from jet.modeling.checkpoint import check_folder, read_config
from jet.ops.availability import has_triton

log = logging.getLogger(__name__)
Generate = Callable[[LocalConfig, Request, float], Iterator[TokenChunk]]

_LONGEST_S = 120  # longest loan to ask for: shorter ones are granted sooner
_BEGIN_S = 40  # of it for loading and prefill
_BROKEN = "The GPU was taken back before the story ended."
_TARGETS = ("sm_120", "sm_90")  # the GPUs that ZeroGPU has had, today's first
_TOKENS_PER_S = 50  # a conservative estimate of decode speed

# The holder of the GPU process; in the process that serves the page it stays empty.
_GPU_HOLDER = ModelHolder()


def generate(config: LocalConfig, request: Request, interval_s: float) -> Iterator[TokenChunk]:
    """Run one request in the GPU process and yield its chunks; closing the generator aborts it."""
    stream = _GPU_HOLDER.engine(config).submit(request)
    try:
        yield from stream.chunks(interval_s)
    finally:
        stream.abort()


def loan_seconds(config: LocalConfig, request: Request, interval_s: float) -> int:
    """Return for how many seconds to borrow the GPU for a request; the arguments are those of `generate`."""
    return min(_LONGEST_S, _BEGIN_S + request.sampling.max_new_tokens // _TOKENS_PER_S)


@dataclass(frozen=True)
class ZeroGpuConfig:
    """The configuration of a model for a lent GPU, and the function `generate` as ZeroGPU has wrapped it."""

    config: LocalConfig
    generate: Generate = field(compare=False)

    def create(self) -> ZeroGpuEngine:
        """Create the engine from a checkpoint without loading its weights. Raises CheckpointError."""
        wanted = self.config.model or (OFFICIAL_MODEL if hub.is_available(OFFICIAL_MODEL) else STORY_MODEL)
        name, folder = loading.resolve_model(wanted, self.config.revision)
        _compile_ahead(folder, self.config)
        return ZeroGpuEngine(replace(self.config, model=folder, revision=None), name, self.generate)


def _compile_ahead(folder: str, config: LocalConfig) -> None:
    """Compile a checkpoint's kernels in another process before the first call, whose GPU time is limited.

    Does so only on ZeroGPU itself. GPU processes share the folder of compiled kernels, and compile missing
    ones themselves.
    """
    if not os.environ.get("SPACES_ZERO_GPU") or torch.version.cuda is None or not has_triton():
        return
    command = [sys.executable, "-m", "jet.warm", "--model", folder]
    for target in _TARGETS:
        command += ["--target", target]
    if config.quantize is not None:
        command += ["--quantize", config.quantize]
    home = str(Path(__file__).resolve().parents[2])
    try:
        subprocess.Popen(command, cwd=home, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    except OSError as error:
        log.warning("Kernels are not compiled ahead: %s", error)


class ZeroGpuEngine(PromptCounting):
    """Implements `jet.api.Engine` without loading weights in this process."""

    _tokenizer: StoryTokenizer

    def __init__(self, config: LocalConfig, name: str, generate: Generate) -> None:
        self._config = config
        self._generate = generate
        self._closed = False
        model = _build_on_meta(str(config.model))
        self._tokenizer = loading.load_tokenizer(str(config.model), model)
        info = loading.engine_info(name, model, load_s=0.0)
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
            checkpoint=heeds.identify(Path(str(config.model)), config.quantize),
        )

    @property
    def alive(self) -> bool:
        """Return whether requests are accepted."""
        return not self._closed

    def submit(self, request: Request) -> ZeroGpuStream:
        """Return a stream that borrows the GPU when iterated. Raises RequestError if it can never run."""
        if self._closed:
            raise RequestError("The engine has been closed.")
        self._tokenizer.encode(
            request.prompt, self._info.context - 1, request.instruction, request.cache_salt
        )
        if request.banned:
            matcher_of(tuple(request.banned), tuple(request.stop_strings))
        return ZeroGpuStream(
            self._generate, self._config, replace(request, sampling=request.sampling.with_seed())
        )

    def info(self) -> EngineInfo:
        """Return the model's properties; the only figure of memory is that of this process."""
        reading = hardware.read_process_memory()
        return replace(self._info, process_memory_bytes=reading.process_memory_bytes)

    def close(self, reason: str = "") -> None:
        """Accept no more requests; running ones go on until their consumers end them."""
        self._closed = True


class ZeroGpuStream:
    """The chunks of one request; implements `jet.api.Stream`. Runs in the consumer's thread."""

    def __init__(self, generate: Generate, config: LocalConfig, request: Request) -> None:
        self._generate = generate
        self._config = config
        self._request = request
        self._stats = RequestStats(seed=request.sampling.seed)
        self._aborted = False

    def __iter__(self) -> Iterator[TokenChunk]:
        """Yield each chunk as the engine sent it."""
        return self.chunks()

    def chunks(self, interval_s: float = 0.0) -> Iterator[TokenChunk]:
        """Yield chunks, merged in the GPU process to at most one per `interval_s`."""
        yield TokenChunk("", (), self._stats)
        try:
            if not self._aborted:
                yield from self._borrow(interval_s)
        except Exception as error:
            reason = str(getattr(error, "message", "") or error) or type(error).__name__
            yield self._end("error", f"No GPU could be had for this: {reason}")
            return
        if self._stats.finish_reason is None:
            yield self._end("aborted" if self._aborted else "error", None if self._aborted else _BROKEN)

    def _borrow(self, interval_s: float) -> Iterator[TokenChunk]:
        with closing(self._generate(self._config, self._request, interval_s)) as chunks:  # type: ignore[type-var]
            for chunk in chunks:
                self._stats = chunk.stats
                yield chunk
                if self._aborted:
                    return

    def abort(self) -> None:
        """Abort the request as soon as its next chunk comes; the GPU is then returned."""
        self._aborted = True

    def _end(self, reason: str, error: str | None = None) -> TokenChunk:
        return TokenChunk("", (), replace(self._stats, phase="done", finish_reason=reason, error=error))


def _build_on_meta(folder: str) -> JetNemotronForCausalLM:
    """Build a checkpoint's network on the meta device, without weights."""
    check_folder(Path(folder))
    with torch.device("meta"):
        model = JetNemotronForCausalLM(read_config(Path(folder)))
    if (Path(folder) / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model
