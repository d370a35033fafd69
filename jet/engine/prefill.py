"""Prefill: chunks of prompts into slots, on CUDA as one graph a chunk.

A forward is a few thousand launches, which take the host longer than they take the device. `PrefillStep`
needs some hundred, and nothing in them depends on where in a text a chunk stands: slot, position and length
are read from the device. So a whole chunk is captured once for each of a few sizes; a chunk takes the next
larger one, and what is missing at its end is padding, which leaves no trace in a state.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

import torch
from torch import Tensor

from jet.cache.pinned import to_device
from jet.cache.state_pool import PAGE_SIZE, StatePool
from jet.engine.prefill_step import PrefillStep, jet_sizes
from jet.modeling import JetNemotronForCausalLM
from jet.ops.availability import has_triton
from jet.ops.prefill_backends import triton_prefill_backend

# Tokens. Beyond 128, a chunk has at most half as much padding as tokens.
SIZES = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
LARGEST = (4096, 1024, 256)  # the largest size, where memory is short: buffers are as long as a chunk

log = logging.getLogger(__name__)


class Prefill(Protocol):
    """Reads chunks of prompts.

    Attributes:
        kernels: operation → implementation, in words for people.
    """

    kernels: dict[str, str]

    def run(self, slot: int, length: int, ids: Tensor) -> Tensor:
        """Logits `[1, V]` of what follows `ids` `[T]`, which follow the `length` tokens of a slot."""
        ...


def make_prefill(model: JetNemotronForCausalLM, pool: StatePool) -> Prefill:
    """The fastest one here; plain calls where graphs cannot be had."""
    plain = EagerPrefill(model, pool)
    half = model.dtype in (torch.bfloat16, torch.float16)
    if model.device.type != "cuda" or not half or not has_triton():
        return plain
    try:
        return next(made for most in LARGEST if (made := _graphs(model, pool, most)) is not None)
    except StopIteration:
        raise torch.OutOfMemoryError("There is no memory for the shortest chunks of a prompt.") from None
    except Exception:  # whatever a compiler or a graph cannot do on this card
        log.warning("Prompts cannot be read by CUDA graphs: plain calls are slower.", exc_info=True)
        return plain


def _graphs(model: JetNemotronForCausalLM, pool: StatePool, most: int) -> CudaGraphPrefill | None:
    """Graphs of up to `most` tokens; None if there is no memory for them."""
    try:
        return CudaGraphPrefill(model, pool, tuple(size for size in SIZES if size <= most))
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None


class EagerPrefill:
    """The network's forward on the pool's memory."""

    kernels = {"prefill": "forward"}  # noqa: RUF012

    def __init__(self, model: JetNemotronForCausalLM, pool: StatePool) -> None:
        self._model, self._pool = model, pool

    def run(self, slot: int, length: int, ids: Tensor) -> Tensor:
        """One chunk."""
        cache = self._pool.cache(slot, length)
        output = self._model(input_ids=ids[None], past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits: Tensor = output.logits[:, -1]
        return logits


class CudaGraphPrefill:
    """One CUDA graph for each size; longer chunks are read in several."""

    kernels = {"prefill": "triton and cuBLAS, one CUDA graph a chunk", "gated_delta": "triton"}  # noqa: RUF012

    def __init__(
        self, model: JetNemotronForCausalLM, pool: StatePool, sizes: tuple[int, ...] = SIZES
    ) -> None:
        longest = pool.page_table.shape[1] * PAGE_SIZE
        sizes = tuple(size for size in sizes if size < longest) + tuple(s for s in sizes if s >= longest)[:1]
        backend = triton_prefill_backend(sizes[-1], jet_sizes(model.config), model.dtype, model.device)
        self.chunk = PrefillStep(model, pool, backend, sizes[-1])
        self._memory: Any = None  # what all graphs share: only one runs at a time
        self._graphs = {size: self._capture(size) for size in reversed(sizes)}
        self._sizes = sizes

    def run(self, slot: int, length: int, ids: Tensor) -> Tensor:
        """One chunk."""
        for part in ids.split(self._sizes[-1]):
            count = len(part)
            size = next(size for size in self._sizes if size >= count)
            self.chunk.ids[:count].copy_(part)
            chunk_meta = to_device([slot, length, count], torch.int32, part.device)
            self.chunk.chunk_meta.copy_(chunk_meta)
            self._graphs[size].replay()
            length += count
        return self.chunk.logits.clone()

    def _capture(self, size: int) -> torch.cuda.CUDAGraph:
        """A chunk of `size` tokens, for whatever `chunk_meta` says then."""
        self.chunk.run(size)  # compiles; of one token, in the slot that is nobody's
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
            self.chunk.run(size)
        self._memory = self._memory or graph.pool()
        return graph
