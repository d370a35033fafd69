"""Decoder: one token of one sequence through the network, for a CPU.

The fast twin of `JetNemotronForCausalLM.forward` for a single token. On a CPU such a step is a few hundred
small operations, each of which costs more to start than to do: so the projections that read the same input
are one product here, everything works on plain vectors, and the recurrent state is updated in place.

The merged weights are the network's own storage, whose parameters become views into it: nothing is held
twice. Do not move or convert the network while a decoder is in use.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jet.modeling.cache import FullAttentionCache, HybridCache, JetLayerCache, WindowAttentionCache
from jet.modeling.configuration import JetNemotronConfig
from jet.modeling.model import (
    Attention,
    DecoderLayer,
    JetBlock,
    JetNemotronForCausalLM,
    Rotation,
    rotary_angles,
)
from jet.ops.gated_delta import EPS
from jet.ops.precision import wide


class Decoder:
    """Steps a network by single tokens. The cache must hold one sequence that has been prefilled."""

    def __init__(self, model: JetNemotronForCausalLM) -> None:
        self._config: JetNemotronConfig = model.config
        self._embedding = model.model.embed_tokens.weight
        self._head = model.lm_head.weight
        self._norm = model.model.norm.weight
        self._layers = [_Layer(layer, model.config) for layer in model.model.layers]

    @torch.inference_mode()
    def step(self, token: int, cache: HybridCache) -> Tensor:
        """Logits `[1, vocab]` after one more token, which the cache then remembers."""
        position = torch.tensor([[cache.get_seq_length()]])
        rotation = rotary_angles(self._config, position, self._embedding.dtype)
        x = self._embedding[token]
        for layer, memory in zip(self._layers, cache.layers, strict=True):
            x = layer.step(x, memory, rotation)
        x = F.rms_norm(x, self._norm.shape, self._norm, self._config.rms_norm_eps)
        return torch.mv(self._head, x)[None]


class _Layer:
    """One decoder layer on a vector `[hidden]`."""

    def __init__(self, layer: DecoderLayer, config: JetNemotronConfig) -> None:
        self._mixer = (
            _JetStep(layer.self_attn, config)
            if isinstance(layer.self_attn, JetBlock)
            else _AttentionStep(layer.self_attn)  # type: ignore[arg-type]
        )
        self._mixer_norm, self._mlp_norm = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        self._eps = config.rms_norm_eps
        self._intermediate = config.intermediate_size
        self._gate_up = merge([layer.mlp.gate_proj, layer.mlp.up_proj])
        self._down = layer.mlp.down_proj.weight

    def step(self, x: Tensor, memory: object, rotation: Rotation) -> Tensor:
        normed = F.rms_norm(x, self._mixer_norm.shape, self._mixer_norm, self._eps)
        x = x + self._mixer.step(normed, memory, rotation)
        normed = F.rms_norm(x, self._mlp_norm.shape, self._mlp_norm, self._eps)
        gate, up = torch.mv(self._gate_up, normed).split(self._intermediate)
        return torch.addmv(x, self._down, F.silu(gate).mul_(up))


class _JetStep:
    """Dynamic convolution, gated delta rule and gated norm of one token."""

    def __init__(self, block: JetBlock, config: JetNemotronConfig) -> None:
        self._sizes = config.jet
        # q, k and the kernel generator's hidden layer stand together: all three go through SiLU.
        generator = block.dynamic_conv1d.kernel_generator
        parts = [
            block.q_proj,
            block.k_proj,
            generator.w1,
            block.v_proj,
            block.g_proj,
            block.a_proj,
            block.b_proj,
        ]
        self._splits = [2 * config.jet.key_dim, config.jet.generator_dim]
        self._splits += [config.jet.value_dim] * 2 + [config.jet.num_heads] * 2
        self._activated = sum(self._splits[:2])
        self._projections = merge(parts)
        self._kernels, self._kernel_bias = generator.w2.weight, generator.w2.bias
        self._rate = -wide(block.A_log).exp()
        self._dt_bias = wide(block.dt_bias)
        self._norm_weight = wide(block.o_norm.weight)
        self._out = block.o_proj.weight

    def step(self, x: Tensor, memory: object, rotation: Rotation) -> Tensor:
        assert isinstance(memory, JetLayerCache)
        assert memory.recurrent_state is not None and memory.conv_state is not None
        projected = torch.mv(self._projections, x)
        F.silu(projected[: self._activated], inplace=True)
        qk, hidden, v, gate, a, b = projected.split(self._splits)

        conv_state = torch.cat([memory.conv_state[0, :, 1:], v[:, None]], dim=1)
        kernels = torch.addmv(self._kernel_bias, self._kernels, hidden).view_as(conv_state)
        v = F.silu((wide(conv_state) * wide(kernels)).sum(-1)).to(x.dtype)

        state = memory.recurrent_state[0]  # [H, K, V], float32
        heads = self._sizes.num_heads
        qk = wide(qk).view(2 * heads, -1)
        qk = qk * torch.rsqrt(qk.square().sum(-1, keepdim=True) + EPS)
        q, k = qk.view(2, heads, 1, -1)
        state.mul_((self._rate * F.softplus(wide(a) + self._dt_bias)).exp_()[:, None, None])
        error = torch.baddbmm(wide(v).view(heads, 1, -1), k, state, alpha=-1)
        error.mul_(wide(b).sigmoid()[:, None, None])
        state.baddbmm_(k.transpose(1, 2), error)
        out = torch.bmm(q * self._sizes.head_dim**-0.5, state)[:, 0].to(x.dtype)

        memory.store(memory.recurrent_state, conv_state[None], 1)
        normed = F.rms_norm(wide(out), self._norm_weight.shape, self._norm_weight, self._sizes.norm_eps)
        return torch.mv(self._out, (normed * F.silu(wide(gate)).view_as(normed)).to(x.dtype).view(-1))


class _AttentionStep:
    """Attention of one token over everything, or over its window."""

    def __init__(self, block: Attention) -> None:
        self._head_dim = block.head_dim
        self._groups = block.num_key_value_groups
        self._scaling = block.scaling
        parts = [block.q_proj, block.k_proj, block.v_proj]
        self._projections, self._bias = merge(parts), merge_biases(parts)
        self._out = block.o_proj.weight
        self._key_heads = block.k_proj.out_features // block.head_dim

    def step(self, x: Tensor, memory: object, rotation: Rotation) -> Tensor:
        assert isinstance(memory, (FullAttentionCache, WindowAttentionCache))
        projected = torch.addmv(self._bias, self._projections, x).view(-1, self._head_dim)
        queries, keys_new = self._groups * self._key_heads, self._key_heads
        cos, sin = rotation
        turned = projected[: queries + keys_new]
        first, second = turned.chunk(2, dim=-1)
        turned = turned * cos[0] + torch.cat([-second, first], dim=-1) * sin[0]
        keys, values = memory.update(
            turned[None, queries:, None], projected[None, queries + keys_new :, None]
        )
        scores = torch.bmm(
            (turned[:queries] * self._scaling).view(self._key_heads, self._groups, -1),
            keys[0].transpose(1, 2),
        )
        weights = wide(scores).softmax(-1).to(x.dtype)
        return torch.mv(self._out, torch.bmm(weights, values[0]).view(-1))


def merge(parts: Sequence[nn.Linear]) -> Tensor:
    """Several layers' weights as one matrix, `[sum of outputs, inputs]`, of which each becomes a view."""
    merged = torch.cat([part.weight.data for part in parts])
    _share(parts, "weight", merged)
    return merged


def merge_biases(parts: Sequence[nn.Linear]) -> Tensor:
    """The biases of several layers as one vector, of which each becomes a view."""
    merged = torch.cat([part.bias.data for part in parts])
    _share(parts, "bias", merged)
    return merged


def _share(parts: Sequence[nn.Linear], name: str, merged: Tensor) -> None:
    sizes = [part.out_features for part in parts]
    for part, view in zip(parts, merged.split(sizes), strict=True):
        getattr(part, name).data = view
