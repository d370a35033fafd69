"""DecodeStep: runs one token of every row through the network, in few operations, without allocating memory.

The fast counterpart of `JetNemotronForCausalLM.forward` for single tokens. Projections of the same input are
fused into one product; norms and activations are fused into the products. The residual stream and nearly all
values between two operations are float32, and states are updated in place in a `StatePool`.

Fused weights replace the network's own storage: its parameters become views into them, so no weight is stored
twice. Do not move or convert the network while a step is in use. Quantized weights are fused in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from jet.cache.state_pool import JetState, PagedKV, StatePool, WindowKV
from jet.huge_pages import empty_in_huge_pages
from jet.modeling.attention import Attention
from jet.modeling.config import JetNemotronConfig
from jet.modeling.jet_block import JetBlock
from jet.modeling.model import DecoderLayer, JetNemotronForCausalLM
from jet.modeling.quantization import QuantizedLinear, is_tied
from jet.modeling.structure_check import check_not_wrapped
from jet.ops.backends import BoundOp, JetBlockTensors, OpBackend
from jet.ops.blocked import in_rows, joined, stacked_in_blocks
from jet.ops.decode_batch import DecodeBatch
from jet.ops.quantization import QuantizedTensor, Weight
from jet.ops.reference import JetSizes


class StepOp(NamedTuple):
    """One operation of a step: its name, its function and the bytes that it must move.

    `weight`: the matrix that the operation multiplies by; None if it multiplies by none.
    """

    name: str
    run: BoundOp
    nbytes: int
    weight: Weight | None = None

    @property
    def first_weight(self) -> Tensor:
        """Return the tensor that the operation reads first: its matrix, or `qweight` of a quantized one."""
        assert self.weight is not None
        return self.weight.qweight if isinstance(self.weight, QuantizedTensor) else self.weight


class DecodeStep:
    """A decode step of all rows, bound to its tensors.

    Attributes:
        logits: `[B, vocabulary]` float32, the output of the last step.
        saved_bytes: the bytes of the network's weights minus the bytes of weights that a step reads.
        ops: the operations in order. Their bytes count weights, and recurrent and convolution states (read
            and written for each row), but not keys and values, whose size grows.
    """

    def __init__(
        self,
        model: JetNemotronForCausalLM,
        pool: StatePool,
        rows: DecodeBatch,
        backend: OpBackend,
        share_with: DecodeStep | None = None,
    ) -> None:
        """`share_with`: a step of at least as many rows, whose weights and buffers this one uses.

        Raises `CheckpointError` if a module of the network has been wrapped or replaced.
        """
        if share_with is None:
            check_not_wrapped(model)
        config = model.config
        assert isinstance(config, JetNemotronConfig)
        self._config, self._pool, self._rows, self._backend = config, pool, rows, backend
        self._device = model.device
        self._weights: dict[int, Weight] = {} if share_with is None else share_with._weights
        self._saved: dict[int, int] = {}
        self._buffers: list[Tensor] = []
        self._shared_buffers = iter(() if share_with is None else share_with._buffers)
        self._x = self._buffer(config.hidden_size)
        self._angles = self._buffer(config.head_dim), self._buffer(config.head_dim)
        sizes = config.intermediate_size, config.hidden_size
        self._hidden = self._buffer(*backend.mlp_hidden_format(*sizes, model.dtype, model.quantization))
        self.logits = self._buffer(config.vocab_size)
        self.ops = self._prefetch_weights(self._bind(model))
        self.saved_bytes = sum(self._saved.values())

    def run(self) -> None:
        """Run each row's `token` at its `position`, update the state in its `slot` and write `logits`."""
        for part in self.ops:
            part.run()

    @property
    def first_weight(self) -> Tensor:
        """Return the weight that a step reads first."""
        return next(part.first_weight for part in self.ops if part.weight is not None)

    def _prefetch_weights(self, parts: list[StepOp]) -> list[StepOp]:
        """Let each operation prefetch the weight of a later operation into the cache.

        An operation with a weight prefetches the next weight. An operation without one prefetches the second
        next weight, since the operation before it prefetches the next one.
        """
        chained = []
        for number, part in enumerate(parts):
            following = [later.first_weight for later in parts[number + 1 :] if later.weight is not None][:2]
            if part.weight is not None:
                following = following[:1]
            if following:
                part = part._replace(run=self._backend.with_prefetch(part.run, following[-1]))
            chained.append(part)
        return chained

    def _weight(self, *layers: nn.Linear | QuantizedLinear) -> Weight:
        """Return the weight of one layer, or the fused weight of several, in the backend's layout.

        The weight is prepared on first use only.
        """
        weight = one_weight(layers, self._backend.blocked)
        address = weight.data_ptr() or id(weight)  # weights on the meta device have no address
        if address not in self._weights:
            self._weights[address] = self._backend.prepare_weight(weight)
        self._saved[address] = weight.nbytes - self._weights[address].nbytes
        return self._weights[address]

    def _buffer(self, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        rows, larger = len(self._rows.token), next(self._shared_buffers, None)
        if larger is None or larger.dtype != dtype:
            larger = torch.zeros(rows, size, dtype=dtype, device=self._device)
        self._buffers.append(larger[:rows])
        return self._buffers[-1]

    def _bind(self, model: JetNemotronForCausalLM) -> list[StepOp]:
        config, rows, ops = self._config, self._rows, self._backend
        exponents = torch.arange(0, config.head_dim, 2, device=self._device, dtype=torch.float32)
        frequencies = config.rope_theta ** -(exponents / config.head_dim)
        embedding, head = model.model.embed_tokens.weight, self._weight(model.lm_head)
        if is_tied(model):
            embedding = head
        embed = ops.embed(rows.token, embedding, rows.position, frequencies, self._x, *self._angles)
        parts = [StepOp("embedding", embed, embedding[:1].nbytes * len(rows.token))]
        for layer, memory in zip(model.model.layers, self._pool.layers, strict=True):
            parts += self._bind_mixer(layer, memory) + self._bind_mlp(layer)
        norm = model.model.norm.weight
        call = ops.norm_linear(self._x, norm, config.rms_norm_eps, head, None, self.logits)
        return [*parts, StepOp("head", call, head.nbytes, head)]

    def _bind_mlp(self, layer: DecoderLayer) -> list[StepOp]:
        ops = self._backend
        gate_up = self._weight(layer.mlp.gate_proj, layer.mlp.up_proj)
        down = self._weight(layer.mlp.down_proj)
        norm, eps = layer.post_attention_layernorm.weight, self._config.rms_norm_eps
        return [
            StepOp(
                "gate and up",
                ops.norm_swiglu(self._x, norm, eps, gate_up, self._hidden),
                gate_up.nbytes,
                gate_up,
            ),
            StepOp("down", ops.linear_add(self._hidden, down, self._x), down.nbytes, down),
        ]

    def _bind_mixer(self, layer: DecoderLayer, memory: JetState | WindowKV | PagedKV) -> list[StepOp]:
        norm = layer.input_layernorm.weight
        if isinstance(memory, JetState):
            assert isinstance(layer.self_attn, JetBlock)
            return self._bind_jet(layer.self_attn, norm, memory)
        assert isinstance(layer.self_attn, Attention)
        return self._bind_attention(layer.self_attn, norm, memory)

    def _bind_jet(self, block: JetBlock, norm: Tensor, memory: JetState) -> list[StepOp]:
        jet, ops = self._config.jet, self._backend
        sizes = JetSizes(jet.num_heads, jet.head_dim, jet.head_v_dim, jet.generator_dim, jet.conv_size)
        generator = block.dynamic_conv1d.kernel_generator
        parts = [block.q_proj, block.k_proj, generator.w1, block.v_proj]
        weight = self._weight(*parts, block.g_proj, block.a_proj, block.b_proj)
        kernels, output = self._weight(generator.w2), self._weight(block.o_proj)
        projected, out = self._buffer(sum(sizes.split_sizes)), self._buffer(jet.value_dim)
        eps = self._config.rms_norm_eps
        states = memory.conv, memory.recurrent
        tensors = JetBlockTensors(
            x=self._x,
            norm=(norm, eps),
            weight=weight,
            projected=projected,
            generator=(kernels, generator.w2.bias),
            decays=(block.A_log.float(), block.dt_bias.float()),
            slots=self._rows.slot,
            states=states,
            out=out,
            sizes=sizes,
            out_norm=(block.o_norm.weight, jet.norm_eps),
            output=output,
        )
        block_ops = ops.jet_block(tensors)
        moved = 2 * len(self._rows.token) * sum(state[0].nbytes for state in states)
        return [
            StepOp("projections of a jet layer", block_ops.project_in, weight.nbytes, weight),
            StepOp("jet step", block_ops.step, kernels.nbytes + moved, kernels),
            StepOp("output of a jet layer", block_ops.project_out, output.nbytes, output),
        ]

    def _bind_attention(self, block: Attention, norm: Tensor, memory: WindowKV | PagedKV) -> list[StepOp]:
        ops, rows = self._backend, self._rows
        parts = [block.q_proj, block.k_proj, block.v_proj]
        weight, bias = self._weight(*parts), fuse_biases(parts)
        projected, out = self._buffer(len(weight)), self._buffer(block.q_proj.out_features)
        output = self._weight(block.o_proj)
        given = (projected, *self._angles, rows.position, rows.slot)
        if isinstance(memory, PagedKV):
            name, attend = (
                "full attention",
                ops.attend_pages(*given, self._pool.page_table, memory.pages, out),
            )
        else:
            name, attend = "window attention", ops.attend_window(*given, memory.keys, memory.values, out)
        project = ops.norm_linear(self._x, norm, self._config.rms_norm_eps, weight, bias, projected)
        back = ops.linear_add(out, output, self._x)
        return [
            StepOp("projections of an attention layer", project, weight.nbytes, weight),
            StepOp(name, attend, 0),
            StepOp("output of an attention layer", back, output.nbytes, output),
        ]


def one_weight(layers: Sequence[Any], blocked: bool) -> Weight:
    """Return the weight of one layer, or the fused weight of several; `blocked` as in `fuse_projections`."""
    if len(layers) > 1 or (blocked and isinstance(layers[0], QuantizedLinear)):
        return fuse_projections(layers, blocked)
    weight: Weight = layers[0].weight
    return weight


def fuse_projections(parts: Sequence[nn.Linear] | Sequence[QuantizedLinear], blocked: bool = False) -> Weight:
    """Concatenate layers' weights to `[sum of outputs, inputs]` and make each a view of the result.

    `blocked`: lay quantized weights out in blocks, as `jet.ops.blocked` does.
    """
    stored = [part.quantized_weight for part in parts if isinstance(part, QuantizedLinear)]
    if not stored:
        return _fuse([part.weight for part in parts if isinstance(part, nn.Linear)])
    weights = [one.weight for one in stored]
    merged = joined(weights)
    if merged is not None:
        return merged
    if len(stored) == 1:
        return stored[0].in_blocks() if blocked else weights[0]
    if not blocked:
        qweight, scales = (_fuse([getattr(one, name) for one in stored]) for name in ("qweight", "scales"))
        return replace(weights[0], qweight=qweight, scales=scales)
    rows = [in_rows(weight) for weight in weights]
    whole, begin = stacked_in_blocks(rows), 0
    for one in stored:
        end = begin + len(one.weight)
        one.weight, begin = whole[begin:end], end
    return whole


def fuse_biases(parts: Sequence[nn.Linear]) -> Tensor:
    """Concatenate layers' biases to one vector and make each a view of it."""
    return _fuse([part.bias for part in parts])


def _fuse(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate tensors along their rows and make each a view of the result."""
    merged = _as_fused([tensor.data for tensor in tensors])
    if merged is None:
        merged = _concatenated([tensor.data for tensor in tensors])
        for tensor, view in zip(tensors, merged.split([len(tensor) for tensor in tensors]), strict=True):
            tensor.data = view
    return merged


def _concatenated(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate tensors along their rows; on a CPU into huge pages."""
    first = tensors[0]
    if first.device.type != "cpu":
        return torch.cat(list(tensors))
    merged = empty_in_huge_pages(sum(map(len, tensors)), *first.shape[1:], dtype=first.dtype)
    return torch.cat(list(tensors), out=merged)


def _as_fused(tensors: Sequence[Tensor]) -> Tensor | None:
    """Return the fused tensor if `tensors` are consecutive views of one, as after an earlier fusion.

    Returns None if they are not.
    """
    first, address = tensors[0], tensors[0].data_ptr()
    for tensor in tensors:
        same = tensor.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same or tensor.data_ptr() != address or not tensor.is_contiguous():
            return None
        address += tensor.nbytes
    return first.as_strided((sum(map(len, tensors)), *first.shape[1:]), first.stride())
