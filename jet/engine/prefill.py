"""Reading prompts into slots: by the network's forward, and on CUDA mostly by graphs.

A forward is a few thousand launches, which take the host longer than they take the device. Jet layers do not
ask where in a text they stand, so whatever lies between two attention layers is captured once for each of a
few sizes; a piece of a prompt takes the next larger one, and what is missing at its end is padding, which
leaves no trace in a state. The few attention layers are called as they are, on the piece alone.
"""

from __future__ import annotations

import logging
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor

from jet.modeling import JetNemotronForCausalLM
from jet.modeling.model import rotary_angles
from jet.modeling.slots import SlotPool
from jet.ops import gated_delta

SIZES = (64, 128, 256, 512, 1024)  # tokens
_MASKLESS = ("sdpa", "flash_attention_2")  # these tell from the shapes who sees whom

log = logging.getLogger(__name__)


class Prefill(Protocol):
    """Reads pieces of prompts."""

    name: str

    def read(self, slot: int, length: int, ids: Tensor) -> Tensor:
        """Logits `[1, V]` of what follows `ids` `[T]`, which follow the `length` tokens of a slot."""
        ...


def make_prefill(model: JetNemotronForCausalLM, pool: SlotPool) -> Prefill:
    """The fastest one here; plain calls where graphs cannot be had."""
    plain = PlainPrefill(model, pool)
    library = gated_delta.implementation(model.device, model.dtype) != "torch"
    if model.device.type != "cuda" or not library or model.config._attn_implementation not in _MASKLESS:
        return plain
    try:
        return GraphPrefill(model, pool, plain)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a library's kernel does that a graph cannot hold
        log.warning("Prompts cannot be read by CUDA graphs: plain calls are slower.", exc_info=True)
        return plain


class PlainPrefill:
    """The network's forward on the pool's memory."""

    name = "forward"

    def __init__(self, model: JetNemotronForCausalLM, pool: SlotPool) -> None:
        self._model, self._pool = model, pool

    def read(self, slot: int, length: int, ids: Tensor) -> Tensor:
        """One piece."""
        cache = self._pool.cache(slot, length)
        output = self._model(input_ids=ids[None], past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits: Tensor = output.logits[:, -1]
        return logits


class GraphPrefill:
    """Graphs for what lies between attention layers; what is too large for them goes the plain way."""

    name = "CUDA graphs between attention layers"

    def __init__(self, model: JetNemotronForCausalLM, pool: SlotPool, plain: PlainPrefill) -> None:
        self._model, self._pool, self._plain = model, pool, plain
        self._slot = torch.full((1,), pool.idle, dtype=torch.int64, device=model.device)
        self._rows = pool.jet_rows(self._slot)
        kinds = model.config.layer_types or []
        runs = groupby(range(len(kinds)), key=lambda index: kinds[index] == "jet")
        self._runs = [(is_jet, list(indices)) for is_jet, indices in runs]
        self._memory: Any = None  # what all graphs share: only one runs at a time
        self._graphs = {size: _SizeGraphs(self, size) for size in reversed(SIZES)}

    def read(self, slot: int, length: int, ids: Tensor) -> Tensor:
        """One piece."""
        size = next((size for size in SIZES if size >= len(ids)), None)
        if size is None:
            return self._plain.read(slot, length, ids)
        model, config = self._model.model, self._model.config
        graphs, count = self._graphs[size], len(ids)
        self._slot.fill_(slot)
        hidden = graphs.begin(model.embed_tokens(ids[None]))
        positions = torch.arange(length, length + count, device=ids.device)[None]
        rotation = rotary_angles(config, positions, self._model.dtype)
        cache = self._pool.cache(slot, length)
        for is_jet, indices in self._runs:
            if is_jet:
                graphs.run(indices[0])
                continue
            for index in indices:
                hidden.copy_(model.layers[index](hidden, None, rotation, past_key_values=cache)[0])
        logits: Tensor = self._model.lm_head(model.norm(hidden[:, -1]))
        return logits

    def capture(self, indices: list[int], hidden: Tensor, mask: Tensor) -> torch.cuda.CUDAGraph:
        """These jet layers on `hidden` `[1, size, C]` in place, for the slot that `self._slot` names then."""

        def run() -> None:
            state = hidden
            for index in indices:
                layer = self._model.model.layers[index]
                state = layer(state, mask, None, past_key_values=self._rows, trailing=True)[0]
            hidden.copy_(state)

        run()  # compiles and tunes; on the slot that is nobody's
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
            run()
        self._memory = self._memory or graph.pool()
        return graph


class _SizeGraphs:
    """The graphs of one size, one after the other on the same tensor."""

    def __init__(self, prefill: GraphPrefill, size: int) -> None:
        model = prefill._model
        shape = (1, size, model.config.hidden_size)
        self._hidden = torch.zeros(shape, dtype=model.dtype, device=model.device)
        self._mask = torch.ones(1, size, dtype=torch.bool, device=model.device)
        self._places = torch.arange(size, device=model.device)[None]
        self._graphs = {
            indices[0]: prefill.capture(indices, self._hidden, self._mask)
            for is_jet, indices in prefill._runs
            if is_jet
        }

    def begin(self, embedded: Tensor) -> Tensor:
        """Take a piece `[1, T, C]`; returns where it stands from now on."""
        count = embedded.shape[1]
        torch.lt(self._places, count, out=self._mask)
        here = self._hidden[:, :count]
        here.copy_(embedded)
        return here

    def run(self, first: int) -> None:
        """The jet layers from the `first` to the next attention layer."""
        self._graphs[first].replay()
