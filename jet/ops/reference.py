"""Define the decode step's fused operations in plain torch; all kernels must compute the same.

Activations are float32 `[B, …]`, with one row for each sequence. Weights are float32, bfloat16, float16 or
quantized; products use their exact values. Results are written to tensors that the caller passes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from jet.ops.dynamic_conv import dynamic_conv
from jet.ops.gated_delta_rule import naive_recurrent_gated_delta_rule
from jet.ops.quantization import Weight


@dataclass(frozen=True)
class JetSizes:
    """Sizes of a JetBlock, and of the parts of its fused projection q | k | w1 | v | g | a | b."""

    num_heads: int
    head_k_dim: int  # channels of a head's keys and queries
    head_v_dim: int  # channels of a head's values
    generator_dim: int  # hidden channels of the convolution's kernel generator
    conv_size: int  # taps of the convolution

    @property
    def split_sizes(self) -> list[int]:
        """Return the number of channels of each of q, k, w1, v, g, a, b."""
        keys, values = self.num_heads * self.head_k_dim, self.num_heads * self.head_v_dim
        return [keys, keys, self.generator_dim, values, values, self.num_heads, self.num_heads]

    def gate(self, projected: Tensor) -> Tensor:
        """Return the output gate g, `[B, H * V]`, a view into `projected` `[B, P]`."""
        gate: Tensor = projected.split(self.split_sizes, dim=1)[4]
        return gate

    def check(
        self, projected: Tensor, weight: Weight, conv_state: Tensor, recurrent_state: Tensor, out: Tensor
    ) -> None:
        """Raise ValueError unless the tensors of a `jet_step` are contiguous and of these sizes."""
        channels = self.num_heads * self.head_v_dim
        expected: list[tuple[Weight, tuple[int, ...]]] = [
            (projected, (projected.shape[0], sum(self.split_sizes))),
            (weight, (channels * self.conv_size, self.generator_dim)),
            (conv_state, (conv_state.shape[0], channels, self.conv_size)),
            (recurrent_state, (conv_state.shape[0], self.num_heads, self.head_k_dim, self.head_v_dim)),
            (out, (projected.shape[0], channels)),
        ]
        for tensor, shape in expected:
            if tensor.shape != shape or not tensor.is_contiguous():
                raise ValueError(f"A tensor of {list(tensor.shape)} should be {list(shape)} and contiguous.")


def norm_linear_reference(
    x: Tensor, norm_weight: Tensor, eps: float, weight: Weight, bias: Tensor | None, out: Tensor
) -> None:
    """Compute `out = rmsnorm(x) @ weight.T + bias`.

    Args:
        x: `[B, C]` float32.
        norm_weight: the norm's scale, `[C]`.
        eps: the norm's epsilon.
        weight: `[N, C]`.
        bias: `[N]` or None.
        out: `[B, N]` float32, overwritten.
    """
    normed = F.rms_norm(x, norm_weight.shape, norm_weight.float(), eps)
    out.copy_(F.linear(normed, weight.float(), None if bias is None else bias.float()))


def norm_swiglu_reference(x: Tensor, norm_weight: Tensor, eps: float, gate_up: Weight, out: Tensor) -> None:
    """Compute `out = silu(g) * u` for `g | u = rmsnorm(x) @ gate_up.T`.

    Args:
        x: `[B, C]` float32.
        norm_weight: the norm's scale, `[C]`.
        eps: the norm's epsilon.
        gate_up: `[2 * I, C]`, the gate's rows first.
        out: `[B, I]` float32 or half precision, overwritten.
    """
    normed = F.rms_norm(x, norm_weight.shape, norm_weight.float(), eps)
    gate, up = F.linear(normed, gate_up.float()).chunk(2, dim=1)
    out.copy_(F.silu(gate) * up)


def linear_add_reference(h: Tensor, weight: Weight, x: Tensor) -> None:
    """Compute `x += h @ weight.T` for weight `[N, C]` and x `[B, N]` float32.

    `h`: `[B, C]` in float32 or half precision.
    """
    x.add_(F.linear(h.float(), weight.float()))


def gated_norm_linear_add_reference(
    o: Tensor, gate: Tensor, norm_weight: Tensor, eps: float, weight: Weight, x: Tensor
) -> None:
    """Compute `x += (rmsnorm(o) * silu(gate)) @ weight.T`, with the norm per head.

    Args:
        o: `[B, H * V]` float32.
        gate: `[B, H * V]` float32; may be a slice of a wider matrix's columns.
        norm_weight: the norm's scale, `[V]`.
        eps: the norm's epsilon.
        weight: `[N, H * V]`.
        x: `[B, N]` float32, added to.
    """
    heads = o.unflatten(1, (-1, norm_weight.shape[0]))
    normed = F.rms_norm(heads, norm_weight.shape, norm_weight.float(), eps).flatten(1)
    linear_add_reference(normed * F.silu(gate), weight, x)


def jet_step_reference(
    projected: Tensor,
    kernels_weight: Weight,
    kernels_bias: Tensor,
    log_decay_rate: Tensor,
    dt_bias: Tensor,
    slots: Tensor,
    conv_state: Tensor,
    recurrent_state: Tensor,
    out: Tensor,
    sizes: JetSizes,
) -> None:
    """Run one token per row through the dynamic convolution and the gated delta rule; update states in place.

    The convolution's newest input is rounded to `conv_state`'s type before it is used, as later steps will
    read it. Different rows must have different slots, except padding rows, whose results are not used.

    Args:
        projected: q | k | w1 | v | g | a | b before any activation, `[B, P]` float32.
        kernels_weight: the weight of the kernel generator's second layer, `[H * V * W, generator]`.
        kernels_bias: the bias of that layer, `[H * V * W]`.
        log_decay_rate: `A_log`, `[H]` float32.
        dt_bias: `[H]` float32.
        slots: each row's index in the states, `[B]` int32.
        conv_state: the convolution's last inputs, newest last, `[S, H * V, W]` in the model's type.
        recurrent_state: `[S, H, K, V]` float32.
        out: `[B, H * V]` float32, overwritten; before the gated norm.
        sizes: the sizes of the JetBlock.
    """
    q, k, w1, v, _, a, b = projected.split(sizes.split_sizes, dim=1)
    places, heads, model_type = slots.long(), (1, sizes.num_heads, -1), conv_state.dtype
    kernels = F.linear(F.silu(w1), kernels_weight.float(), kernels_bias.float())
    v = v.to(model_type).float()[:, None]
    v, shifted = dynamic_conv(v, kernels.unflatten(1, (1, -1, sizes.conv_size)), conv_state[places].float())
    g = -log_decay_rate.float().exp() * F.softplus(a + dt_bias.float())
    result, state = naive_recurrent_gated_delta_rule(
        F.silu(q).unflatten(1, heads),
        F.silu(k).unflatten(1, heads),
        v.unflatten(-1, heads[1:]),
        g[:, None],
        b.sigmoid()[:, None],
        recurrent_state[places],
    )
    conv_state[places] = shifted.to(model_type)
    recurrent_state[places] = state
    out.copy_(result.flatten(1))


def embed_reference(
    token: Tensor, embedding: Weight, position: Tensor, inv_freq: Tensor, x: Tensor, cos: Tensor, sin: Tensor
) -> None:
    """Write the tokens' embeddings to `x`, and the rotation of each row's position to `cos` and `sin`.

    Args:
        token: `[B]` int32 or int64.
        embedding: `[vocabulary, C]`.
        position: the number of tokens before this one, `[B]` int32 or int64.
        inv_freq: rotary frequencies, `[D / 2]` float32.
        x: `[B, C]` float32, overwritten.
        cos, sin: `[B, D]` float32, overwritten; both halves of a row are equal.
    """
    x.copy_(embedding[token.long()].float())
    angles = position[:, None] * torch.cat([inv_freq, inv_freq])
    cos.copy_(angles.cos())
    sin.copy_(angles.sin())
