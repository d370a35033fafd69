"""Prefill: runs chunks of prompts into state slots, on CUDA as one graph a chunk.

The network's forward launches a few thousand kernels. The host needs longer to launch them than the
device to run them. `PrefillStep` launches about a hundred, and reads slots, positions and lengths from device
memory. So one captured graph serves all prompts, and several waiting prompts can share a chunk. There are
graphs for a few sizes; a chunk uses the graph of the next larger size, and padding does not change a state.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from jet.cache.pinned import to_device
from jet.cache.state_pool import PAGE_SIZE, StatePool
from jet.engine.prefill_step import PrefillStep, jet_sizes
from jet.engine.unpacked_prefill import Part, UnpackedPrefill
from jet.modeling import JetNemotronForCausalLM
from jet.ops.activations import compiled_linear
from jet.ops.availability import has_triton
from jet.ops.chunk_meta import Segment, chunk_table, place_segments
from jet.ops.prefill_backends import triton_prefill_backend

# In tokens. Beyond 128, padding is at most half of a chunk's tokens.
SIZES = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
FIRST_SIZES = (64, 512)  # captured at start, with the largest; `capture_next` captures the others
LARGEST = (4096, 1024, 256)  # largest sizes to try when memory is short: buffers are as long as a chunk

log = logging.getLogger(__name__)


class Prefill(Protocol):
    """Runs prefill chunks.

    Attributes:
        kernels: a description of the implementation of each operation, by the operation's name.
        max_packed: most tokens of a chunk of several sequences, padding included; 0 if chunks are not shared.
    """

    kernels: dict[str, str]
    max_packed: int

    def run(self, slot: int, length: int, ids: Tensor) -> Tensor:
        """Run `ids` `[T]` after the `length` tokens in a slot; return logits `[1, V]` of the next token."""
        ...

    def run_packed(self, parts: Sequence[Part]) -> Tensor:
        """Run one chunk of `n` sequences; return the logits `[n, V]` of the next token of each."""
        ...

    def capture_next(self) -> bool:
        """Compile one kernel or capture one graph for later chunks; return False if nothing is left to do."""
        ...


def make_prefill(model: JetNemotronForCausalLM, pool: StatePool) -> Prefill:
    """Make the fastest prefill available: CUDA graphs, or the network's forward.

    Raises torch.OutOfMemoryError if there is no memory for the smallest graphs.
    """
    plain = EagerPrefill(model, pool)
    quantized = model.quantization is not None and model.dtype == torch.float32
    if quantized and compiled_linear(torch.empty(0, device=model.device)) is not None:
        from jet.engine.cpu_prefill import CpuPrefill

        return CpuPrefill(model, pool, torch.get_num_threads())
    half = model.dtype in (torch.bfloat16, torch.float16)
    if model.device.type != "cuda" or not half or not has_triton():
        return plain
    try:
        return next(made for most in LARGEST if (made := _graphs(model, pool, most)) is not None)
    except StopIteration:
        raise torch.OutOfMemoryError("There is no memory for the shortest prefill chunks.") from None
    except Exception:  # whatever a compiler or a graph cannot do on this card
        log.warning("Prefill cannot use CUDA graphs here and is slower without.", exc_info=True)
        return plain


def _graphs(model: JetNemotronForCausalLM, pool: StatePool, most: int) -> CudaGraphPrefill | None:
    """Capture graphs of up to `most` tokens; None if there is no memory for them."""
    try:
        return CudaGraphPrefill(model, pool, tuple(size for size in SIZES if size <= most))
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None


class EagerPrefill(UnpackedPrefill):
    """Runs the network's forward on the pool's memory."""

    kernels = {"prefill": "forward"}  # noqa: RUF012

    def __init__(self, model: JetNemotronForCausalLM, pool: StatePool) -> None:
        self._model, self._pool = model, pool
        self.device = model.device

    def run(self, slot: int, length: int, ids: Tensor) -> Tensor:
        """Run one chunk; see `Prefill.run`."""
        cache = self._pool.cache(slot, length)
        output = self._model(input_ids=ids[None], past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits: Tensor = output.logits[:, -1]
        return logits


class CudaGraphPrefill:
    """Runs one CUDA graph per chunk; chunks beyond the largest size are split."""

    kernels = {"prefill": "triton and cuBLAS, one CUDA graph a chunk", "gated_delta": "triton"}  # noqa: RUF012

    def __init__(
        self, model: JetNemotronForCausalLM, pool: StatePool, sizes: tuple[int, ...] = SIZES
    ) -> None:
        longest = pool.page_table.shape[1] * PAGE_SIZE
        sizes = tuple(size for size in sizes if size < longest) + tuple(s for s in sizes if s >= longest)[:1]
        backend = triton_prefill_backend(sizes[-1], jet_sizes(model.config), model.dtype, model.device)
        self.chunk = PrefillStep(model, pool, backend, sizes[-1])
        self._memory: Any = None  # the pool that all graphs share: only one runs at a time
        self._null_chunk = self.chunk.chunk_meta.clone()  # one token in the null slot
        self._sizes = sizes
        self.max_packed = sizes[-1]
        first = [size for size in sizes if size in FIRST_SIZES or size == sizes[-1]]
        self._graphs = {size: self._capture(size) for size in reversed(first)}
        self._left = [size for size in sizes if size not in first]

    def run(self, slot: int, length: int, ids: Tensor) -> Tensor:
        """Run one chunk; see `Prefill.run`."""
        for part in ids.split(self._sizes[-1]):
            self._replay([Segment(slot, length, len(part), 0)], part)
            length += len(part)
        return self.chunk.logits[:1].clone()

    def run_packed(self, parts: Sequence[Part]) -> Tensor:
        """Run one chunk of several sequences; see `Prefill.run_packed`."""
        segments = place_segments([(part.slot, part.length, len(part.token_ids)) for part in parts])
        ids = np.zeros(segments[-1].offset + segments[-1].size, np.int64)
        for segment, part in zip(segments, parts, strict=True):
            ids[segment.offset : segment.offset + segment.size] = part.token_ids
        self._replay(segments, to_device(ids, torch.int64, self.chunk.ids.device))
        return self.chunk.logits[: len(parts)].clone()

    def _replay(self, segments: Sequence[Segment], ids: Tensor) -> None:
        size = next(size for size in self._sizes if size >= len(ids) and size in self._graphs)
        self.chunk.ids[: len(ids)].copy_(ids)
        table = chunk_table(segments, self.chunk.tokens)
        self.chunk.chunk_meta.copy_(to_device(table, torch.int32, ids.device))
        self._graphs[size].replay()

    @torch.inference_mode()
    def capture_next(self) -> bool:
        """Capture the graph of one more size, between chunks; return False if no size is left.

        If there is no memory for a graph, no further sizes are captured.
        """
        if not self._left:
            return False
        size = self._left.pop()
        try:
            self._graphs[size] = self._capture(size)
        except torch.OutOfMemoryError:
            self._left.clear()
        return True

    def _capture(self, size: int) -> torch.cuda.CUDAGraph:
        """Capture a chunk of up to `size` tokens; it reads slots and lengths from `chunk_meta` at replay."""
        self.chunk.chunk_meta.copy_(self._null_chunk)
        self.chunk.run(size)  # compiles
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
            self.chunk.run(size)
        self._memory = self._memory or graph.pool()
        return graph
