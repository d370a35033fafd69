"""Prefill prompts on a CPU with the decode step's kernels: the tokens of a chunk are the rows of a batch.

Each weight is read once for all tokens of a chunk and multiplied in its quantized form. States are updated
token by token, which on a CPU costs less than the chunked delta rule. A token's values are bit for bit those
of a decode step, however the prompt is split into chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from jet.cache.state_pool import JetState, PagedKV, StatePool, WindowKV
from jet.engine.decode_step import fuse_biases, one_weight
from jet.engine.unpacked_prefill import UnpackedPrefill
from jet.modeling import JetNemotronForCausalLM
from jet.modeling.attention import Attention
from jet.modeling.config import JetNemotronConfig
from jet.modeling.jet_block import JetBlock
from jet.modeling.model import DecoderLayer
from jet.modeling.quantization import is_tied
from jet.ops.backends import BoundOp, JetBlockTensors, numba_backend
from jet.ops.quantization import Weight
from jet.ops.reference import JetSizes

CHUNK = 128  # tokens that are read at once


class Part(Protocol):
    """An operation bound to buffers of `CHUNK` rows; it computes the first rows of them."""

    def __call__(self) -> None:
        """Run the operation."""
        ...

    def resize(self, batch: int) -> None:
        """Set the number of rows of the following calls."""
        ...


class _Rebound:
    """Adds `resize` to an operation without it, by binding the operation again for each number of rows."""

    def __init__(
        self, bind: Callable[..., BoundOp], rows: list[Tensor], rest: list[Tensor], out: Tensor
    ) -> None:
        self._bind, self._rows, self._rest, self._out = bind, rows, rest, out
        self.resize(len(out))

    def __call__(self) -> None:
        self._step()

    def resize(self, batch: int) -> None:
        rows = (tensor[:batch] for tensor in self._rows)
        self._step = self._bind(*rows, *self._rest, self._out[:batch])


class CpuPrefill(UnpackedPrefill):
    """Runs prefill chunks through a quantized network that computes in float32."""

    kernels = {"prefill": "those of decode steps"}  # noqa: RUF012

    def __init__(self, model: JetNemotronForCausalLM, pool: StatePool, threads: int) -> None:
        config = model.config
        assert isinstance(config, JetNemotronConfig)
        self._config, self._pool, self._operations = config, pool, numba_backend(threads, in_order=True)
        self._position, self._slot = (torch.zeros(CHUNK, dtype=torch.int32) for _ in range(2))
        self._token = torch.zeros(CHUNK, dtype=torch.int64)
        self._x, self._last = torch.zeros(CHUNK, config.hidden_size), torch.zeros(1, config.hidden_size)
        self._angles = torch.zeros(CHUNK, config.head_dim), torch.zeros(CHUNK, config.head_dim)
        self._hidden = torch.zeros(CHUNK, config.intermediate_size)
        self._logits = torch.zeros(1, config.vocab_size)
        jet = config.jet
        self._sizes = JetSizes(jet.num_heads, jet.head_dim, jet.head_v_dim, jet.generator_dim, jet.conv_size)
        self._memory: dict[int, Tensor] = {}
        self._parts: list[Part] = []
        for layer, memory in zip(model.model.layers, pool.layers, strict=True):
            self._parts += self._bind_mixer(layer, memory) + self._bind_mlp(layer)
        norm, head = model.model.norm.weight, self._weight(model.lm_head)
        self._embedding = head if is_tied(model) else model.model.embed_tokens.weight
        self._head: BoundOp = self._operations.norm_linear(
            self._last, norm, config.rms_norm_eps, head, None, self._logits
        )
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        self._frequencies = config.rope_theta**-exponents
        self._batch = CHUNK

    def run(self, slot: int, length: int, ids: Tensor) -> Tensor:
        """Prefill `ids` `[T]` after the first `length` tokens of a slot.

        Returns the logits `[1, V]` of the next token.
        """
        self._slot.fill_(slot)
        for piece in ids.split(CHUNK):
            self._chunk(length, piece)
            length += len(piece)
        self._last.copy_(self._x[self._batch - 1])
        self._head()
        return self._logits.clone()

    def _chunk(self, length: int, ids: Tensor) -> None:
        count = len(ids)
        if count != self._batch:
            for part in self._parts:
                part.resize(count)
            self._batch = count
        token, position = self._token[:count], self._position[:count]
        token.copy_(ids)
        torch.arange(length, length + count, out=position)
        rows = (part[:count] for part in (self._x, *self._angles))
        self._operations.embed(token, self._embedding, position, self._frequencies, *rows)()
        for part in self._parts:
            part()

    def _weight(self, *layers: Any) -> Weight:
        return one_weight(layers, self._operations.blocked)

    def _bind_mlp(self, layer: DecoderLayer) -> list[Any]:
        ops, norm = self._operations, layer.post_attention_layernorm.weight
        gate_up = self._weight(layer.mlp.gate_proj, layer.mlp.up_proj)
        return [
            ops.norm_swiglu(self._x, norm, self._config.rms_norm_eps, gate_up, self._hidden),
            ops.linear_add(self._hidden, self._weight(layer.mlp.down_proj), self._x),
        ]

    def _bind_mixer(self, layer: DecoderLayer, memory: JetState | WindowKV | PagedKV) -> list[Any]:
        block, norm = layer.self_attn, (layer.input_layernorm.weight, self._config.rms_norm_eps)
        if isinstance(memory, JetState):
            assert isinstance(block, JetBlock)
            return self._bind_jet(block, norm, memory)
        assert isinstance(block, Attention)
        return self._bind_attention(block, norm, memory)

    def _bind_jet(self, block: JetBlock, norm: tuple[Tensor, float], memory: JetState) -> list[Any]:
        generator = block.dynamic_conv1d.kernel_generator
        parts = [block.q_proj, block.k_proj, generator.w1, block.v_proj, block.g_proj, block.a_proj]
        tensors = JetBlockTensors(
            x=self._x,
            norm=norm,
            weight=self._weight(*parts, block.b_proj),
            projected=self._shared(sum(self._sizes.split_sizes)),
            generator=(self._weight(generator.w2), generator.w2.bias),
            decays=(block.A_log.float(), block.dt_bias.float()),
            slots=self._slot,
            states=(memory.conv, memory.recurrent),
            out=self._shared(self._config.jet.value_dim),
            sizes=self._sizes,
            out_norm=(block.o_norm.weight, self._config.jet.norm_eps),
            output=self._weight(block.o_proj),
        )
        return list(self._operations.jet_block(tensors))

    def _bind_attention(
        self, block: Attention, norm: tuple[Tensor, float], memory: WindowKV | PagedKV
    ) -> list[Any]:
        ops, parts = self._operations, [block.q_proj, block.k_proj, block.v_proj]
        weight, bias = self._weight(*parts), fuse_biases(parts)
        projected, out = self._shared(len(weight)), self._shared(block.q_proj.out_features)
        rows = [projected, *self._angles, self._position, self._slot]
        if isinstance(memory, PagedKV):
            attend = _Rebound(ops.attend_pages, rows, [self._pool.page_table, memory.pages], out)
        else:
            attend = _Rebound(ops.attend_window, rows, [memory.keys, memory.values], out)
        return [
            ops.norm_linear(self._x, *norm, weight, bias, projected),
            attend,
            ops.linear_add(out, self._weight(block.o_proj), self._x),
        ]

    def _shared(self, columns: int) -> Tensor:
        """Return a buffer `[CHUNK, columns]` that all layers share, since they run one after the other."""
        if columns not in self._memory:
            self._memory[columns] = torch.zeros(CHUNK, columns)
        return self._memory[columns]
