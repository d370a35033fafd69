"""DecodeStep: one token of every row through the network, in few operations and without allocating.

The fast twin of `JetNemotronForCausalLM.forward` for single tokens. The projections that read the same input
are one product, norms and activations are part of the products, the residual stream is float32, as nearly
everything between two operations, and all states are updated in place in a `StatePool`.

The merged weights are the network's own storage, whose parameters become views into it: nothing is held
twice. Do not move or convert the network while a step is in use. Quantized weights are merged alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from jet.cache.state_pool import JetState, PagedKV, StatePool, WindowKV
from jet.modeling.config import JetNemotronConfig
from jet.modeling.model import Attention, DecoderLayer, JetBlock, JetNemotronForCausalLM
from jet.modeling.quantization import QuantizedLinear, is_tied
from jet.modeling.structure_check import check_not_wrapped
from jet.ops.backends import BoundOp, JetBlockTensors, OpBackend
from jet.ops.decode_batch import DecodeBatch
from jet.ops.quantization import QuantizedTensor, Weight
from jet.ops.reference import JetSizes


class StepOp(NamedTuple):
    """One operation of a step: what it is, the function that does it, and the bytes it must move.

    `weight`: the matrix that it multiplies by, if it does.
    """

    name: str
    run: BoundOp
    nbytes: int
    weight: Weight | None = None

    @property
    def first_weight(self) -> Tensor:
        """What it reads of its weight before anything else: the matrix, or the codes of it."""
        assert self.weight is not None
        return self.weight.qweight if isinstance(self.weight, QuantizedTensor) else self.weight


class DecodeStep:
    """A step of all rows, bound to its tensors.

    Attributes:
        logits: `[B, vocabulary]` float32, what the last step or prefill left for the sampler.
        saved_bytes: by how much the weights that a step reads are smaller than the network's.
        ops: the operations in their order. Their bytes are those of weights and, read and written for each
            row, of recurrent and convolution state; keys and values, which grow, are left out.
    """

    def __init__(
        self,
        model: JetNemotronForCausalLM,
        pool: StatePool,
        rows: DecodeBatch,
        backend: OpBackend,
        share_with: DecodeStep | None = None,
    ) -> None:
        """`share_with`: a step of at least as many rows, whose weights and buffers this one then uses too.

        Raises `CheckpointError` where something has been put around a module, or in its place.
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
        """Read every row's `token` at its `position` into its `slot`; `logits` are then of the next one."""
        for part in self.ops:
            part.run()

    @property
    def first_weight(self) -> Tensor:
        """What a step reads first of all weights."""
        return next(part.first_weight for part in self.ops if part.weight is not None)

    def _prefetch_weights(self, parts: list[StepOp]) -> list[StepOp]:
        """Have each part's weight fetched while the one before runs.

        A part without a weight takes over the one after: the next is being fetched already.
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

    def _weight(self, weight: Weight) -> Weight:
        """A matrix in the form that is read fastest here."""
        place = weight.data_ptr()
        if place not in self._weights:
            self._weights[place] = self._backend.prepare_weight(weight)
        self._saved[place] = weight.nbytes - self._weights[place].nbytes
        return self._weights[place]

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
        embedding, head = model.model.embed_tokens.weight, self._weight(model.lm_head.weight)
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
        gate_up = self._weight(fuse_projections([layer.mlp.gate_proj, layer.mlp.up_proj]))
        down = self._weight(layer.mlp.down_proj.weight)
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
        weight = self._weight(fuse_projections([*parts, block.g_proj, block.a_proj, block.b_proj]))
        kernels, output = self._weight(generator.w2.weight), self._weight(block.o_proj.weight)
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
        weight, bias = self._weight(fuse_projections(parts)), fuse_biases(parts)
        projected, out = self._buffer(len(weight)), self._buffer(block.q_proj.out_features)
        output = self._weight(block.o_proj.weight)
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


def fuse_projections(parts: Sequence[nn.Linear] | Sequence[QuantizedLinear]) -> Weight:
    """Several layers' weights as one matrix, `[sum of outputs, inputs]`, of which each becomes a view."""
    held = [part.held for part in parts if isinstance(part, QuantizedLinear)]
    if not held:
        return _fuse([part.weight for part in parts if isinstance(part, nn.Linear)])
    qweight, scales = (_fuse([getattr(one, name) for one in held]) for name in ("qweight", "scales"))
    return replace(held[0].weight, qweight=qweight, scales=scales)


def fuse_biases(parts: Sequence[nn.Linear]) -> Tensor:
    """The biases of several layers as one vector, of which each becomes a view."""
    return _fuse([part.bias for part in parts])


def _fuse(tensors: Sequence[Tensor]) -> Tensor:
    """All rows of tensors as one, of which each becomes a view."""
    merged = _as_fused([tensor.data for tensor in tensors])
    if merged is None:
        merged = torch.cat([tensor.data for tensor in tensors])
        for tensor, view in zip(tensors, merged.split([len(tensor) for tensor in tensors]), strict=True):
            tensor.data = view
    return merged


def _as_fused(tensors: Sequence[Tensor]) -> Tensor | None:
    """The tensor whose views these are, if they lie behind each other as in one that was merged before."""
    first, place = tensors[0], tensors[0].data_ptr()
    for tensor in tensors:
        same = tensor.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same or tensor.data_ptr() != place or not tensor.is_contiguous():
            return None
        place += tensor.nbytes
    return first.as_strided((sum(map(len, tensors)), *first.shape[1:]), first.stride())
