"""JetBlock: the linear-attention mixer, with the dynamic convolution on its values."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jet.modeling.cache import HybridCache, JetLayerCache
from jet.modeling.config import JetNemotronConfig
from jet.modeling.layers import GatedRMSNorm, Linear
from jet.ops.dynamic_conv import dynamic_conv
from jet.ops.gated_delta_rule import gated_delta_rule
from jet.ops.precision import upcast


class KernelGenerator(nn.Module):
    """Generates the convolution's kernels from the hidden state: `w2(silu(w1(x)))`, `[B, T, D, W]`."""

    def __init__(self, config: JetNemotronConfig) -> None:
        super().__init__()
        jet = config.jet
        self.width = jet.conv_size
        self.w1 = Linear(config.hidden_size, jet.generator_dim, bias=False)
        self.w2 = Linear(jet.generator_dim, jet.value_dim * jet.conv_size, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the kernels `[B, T, D, W]` for hidden states `[B, T, hidden]`."""
        kernels: Tensor = self.w2(F.silu(self.w1(x)))
        return kernels.view(*kernels.shape[:-1], -1, self.width)


class DynamicConvolution(nn.Module):
    """The dynamic convolution with its kernel generator, under the official parameter names."""

    def __init__(self, config: JetNemotronConfig) -> None:
        super().__init__()
        self.kernel_generator = KernelGenerator(config)

    def forward(
        self, values: Tensor, hidden: Tensor, state: Tensor | None, mask: Tensor | None, trailing: bool
    ) -> tuple[Tensor, Tensor]:
        """Convolve `values` `[B, T, D]`; return the result in the same shape, and the new state.

        The arguments are those of `dynamic_conv`; the kernels are generated from `hidden`.
        """
        return dynamic_conv(values, self.kernel_generator(hidden), state, mask, trailing)


class JetBlock(nn.Module):
    """Linear attention: a dynamic convolution on the values, then the gated delta rule.

    Its state of a sequence is one matrix `[K, V]` per head and the last W inputs of the convolution.
    """

    def __init__(self, config: JetNemotronConfig, layer_idx: int) -> None:
        super().__init__()
        jet = config.jet
        self.layer_idx = layer_idx
        self.num_heads = jet.num_heads
        self.q_proj = Linear(config.hidden_size, jet.key_dim, bias=False)
        self.k_proj = Linear(config.hidden_size, jet.key_dim, bias=False)
        self.v_proj = Linear(config.hidden_size, jet.value_dim, bias=False)
        self.b_proj = Linear(config.hidden_size, jet.num_heads, bias=False)
        self.a_proj = Linear(config.hidden_size, jet.num_heads, bias=False)
        self.A_log = nn.Parameter(torch.zeros(jet.num_heads))
        self.dt_bias = nn.Parameter(torch.zeros(jet.num_heads))
        self.dynamic_conv1d = DynamicConvolution(config)
        self.g_proj = Linear(config.hidden_size, jet.value_dim, bias=False)
        self.o_norm = GatedRMSNorm(jet.head_v_dim, jet.norm_eps)
        self.o_proj = Linear(jet.value_dim, config.hidden_size, bias=False)

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None = None,
        cache: HybridCache | None = None,
        trailing: bool = False,
    ) -> Tensor:
        """Mix tokens `[B, T, hidden]`; return the same shape.

        `mask`, `[B, T]`, is False at padding, which does not change the state. `trailing`: rows are padded on
        the right only.
        """
        if mask is not None:
            hidden = hidden.masked_fill(~mask[..., None], 0)  # attention layers may have put NaN there
        layer = None if cache is None else cache.layers[self.layer_idx]
        assert layer is None or isinstance(layer, JetLayerCache)
        recurrent_state = None if layer is None else layer.recurrent_state
        conv_state = None if layer is None else layer.conv_state

        heads = (self.num_heads, -1)
        q = F.silu(self.q_proj(hidden)).unflatten(-1, heads)
        k = F.silu(self.k_proj(hidden)).unflatten(-1, heads)
        v, conv_state = self.dynamic_conv1d(self.v_proj(hidden), hidden, conv_state, mask, trailing)
        g, beta = self._gates(hidden, mask)
        out, recurrent_state = gated_delta_rule(q, k, v.unflatten(-1, heads), g, beta, recurrent_state)
        if layer is not None:
            layer.store(recurrent_state, conv_state, hidden.shape[1])
        out = self.o_norm(out, self.g_proj(hidden).unflatten(-1, heads))
        mixed: Tensor = self.o_proj(out.flatten(-2))
        return mixed

    def _gates(self, hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the log decay g and the write strength beta, `[B, T, H]` in at least float32.

        At padding, g is 0, so the state does not decay.
        """
        beta = upcast(self.b_proj(hidden)).sigmoid()
        rate = F.softplus(upcast(self.a_proj(hidden)) + upcast(self.dt_bias))
        g = -upcast(self.A_log).exp() * rate
        if mask is not None:
            g = g.masked_fill(~mask[..., None], 0.0)
        return g, beta
