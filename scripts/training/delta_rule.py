"""The gated delta rule for training, in batched matrix products and without kernels of its own.

`jet.ops.gated_delta_rule` defines the rule and its chunked form. This one computes all chunks of all heads at
once. What remains sequential is one small product per chunk, S' = d·S + A - P·S, in `scan`; its gradient is
the same recurrence backwards. The triangular systems are inverted in blocks, in `unit_lower_inverse`. Both
are custom operators, opaque to `torch.compile`, which fuses everything around them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 64
BASE = 16  # size of the blocks that are inverted by a product of powers
EPS = 1e-6


def trainable_gated_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, None]:
    """Compute the rule for whole texts, as `jet.ops.gated_delta_rule` does, but without states.

    Products are in v's dtype. Decays and states are in float32, or in float64 if v is. Returns the outputs,
    and None in place of the last state.
    """
    assert state is None, "a text is trained on from its beginning"
    batch, length, heads = g.shape
    kind, wide = v.dtype, torch.promote_types(v.dtype, torch.float32)
    padding = -length % CHUNK

    def chunks(x: Tensor) -> Tensor:
        """Reshape `[B, T, H, …]` to `[N, B·H, C, …]`; the zeros of the padding leave the state unchanged."""
        if padding:
            x = F.pad(x, (0, 0) * (x.dim() - 2) + (0, padding))
        x = x.unflatten(1, (-1, CHUNK)).transpose(2, 3).transpose(0, 1)
        return x.flatten(1, 2)

    q, k = q.to(wide), k.to(wide)
    q = q * torch.rsqrt(q.square().sum(-1, keepdim=True) + EPS) * q.shape[-1] ** -0.5
    k = k * torch.rsqrt(k.square().sum(-1, keepdim=True) + EPS)
    q, k, v = chunks(q).to(kind), chunks(k).to(kind), chunks(v)
    decay = chunks(g.to(wide)).cumsum(-1)  # [N, B·H, C], from the chunk's start
    beta = chunks(beta.to(wide))
    later = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=q.device).triu(1)
    ratio = (decay[..., :, None] - decay[..., None, :]).masked_fill(later, float("-inf")).exp()

    system = ((k @ k.mT).to(wide) * ratio * beta[..., None]).tril(-1)
    inverse = unit_lower_inverse(system) * beta[..., None, :]
    u = inverse.to(kind) @ v
    w = (inverse * decay.exp()[..., None, :]).to(kind) @ k
    last = decay[..., -1:]
    ends = (k * (last - decay).exp()[..., None]).to(kind)  # keys as the chunk's end sees them
    projection, addition = (ends.mT @ w).to(wide), (ends.mT @ u).to(wide)
    states = scan(projection, addition, last.exp()[..., 0]).to(kind)  # before each chunk
    corrections = u - w @ states
    scores = ((q @ k.mT).to(wide) * ratio).to(kind)
    out = (q * decay.exp()[..., None]).to(kind) @ states + scores @ corrections
    out = out.unflatten(1, (batch, heads)).transpose(0, 1).transpose(2, 3).flatten(1, 2)
    return out[:, :length], None


# --- (I + L)^-1 -----------------------------------------------------------------------------------


@torch.library.custom_op("stories::unit_lower_inverse", mutates_args=())
def unit_lower_inverse(lower: Tensor) -> Tensor:
    """Invert `I + lower`, `[…, C, C]`, for C = 16, 32, 64 …; read only what lies below the diagonal.

    The 16 × 16 blocks on the diagonal are inverted by (I - L)(I + L²)(I + L⁴)(I + L⁸), which is exact because
    L¹⁶ = 0. Then pairs of blocks are joined: the inverse of [[A, 0], [C, B]] has -B⁻¹ C A⁻¹ in its corner.
    The powers of a whole chunk would cancel each other catastrophically.
    """
    size = lower.shape[-1]
    flat = lower.reshape(-1, size, size)
    base = min(BASE, size)
    out = torch.zeros_like(flat)
    starts = range(0, size, base)
    power = -torch.stack([flat[:, s : s + base, s : s + base].tril(-1) for s in starts])
    blocks = power + torch.eye(base, dtype=flat.dtype, device=flat.device)
    for _ in range(max(0, base.bit_length() - 2)):
        power = power @ power
        blocks = blocks + blocks @ power
    for number, s in enumerate(starts):
        out[:, s : s + base, s : s + base] = blocks[number]
    while base < size:
        for s in range(0, size, 2 * base):
            first, second = slice(s, s + base), slice(s + base, s + 2 * base)
            out[:, second, first] = -out[:, second, second] @ (flat[:, second, first] @ out[:, first, first])
        base *= 2
    return out.view(lower.shape)


@unit_lower_inverse.register_fake
def _(lower: Tensor) -> Tensor:
    return torch.empty_like(lower, memory_format=torch.contiguous_format)


def _save_inverse(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(output)


def _inverse_backward(ctx: Any, gradient: Tensor) -> Tensor:
    (inverse,) = ctx.saved_tensors
    lower: Tensor = -(inverse.mT @ gradient @ inverse.mT).tril(-1)
    return lower


unit_lower_inverse.register_autograd(_inverse_backward, setup_context=_save_inverse)


# --- the state from chunk to chunk ----------------------------------------------------------------


@torch.library.custom_op("stories::scan", mutates_args=())
def scan(projection: Tensor, addition: Tensor, decay: Tensor) -> Tensor:
    """Return the states before each chunk, `[N, M, K, V]`: S' = decay·S + addition - projection @ S from 0.

    Shapes: projection `[N, M, K, K]`, addition `[N, M, K, V]`, decay `[N, M]`.
    """
    states = torch.empty_like(addition, memory_format=torch.contiguous_format)
    states[0] = 0
    for n in range(len(states) - 1):
        torch.addcmul(addition[n], states[n], decay[n, :, None, None], out=states[n + 1])
        states[n + 1].baddbmm_(projection[n], states[n], alpha=-1)
    return states


@scan.register_fake
def _(projection: Tensor, addition: Tensor, decay: Tensor) -> Tensor:
    return torch.empty_like(addition, memory_format=torch.contiguous_format)


@torch.library.custom_op("stories::scan_backward", mutates_args=())
def scan_backward(gradient: Tensor, projection: Tensor, decay: Tensor) -> Tensor:
    """Return the gradient of each chunk's addition: G = dS + decay·G' - projectionᵀ @ G', from the end."""
    out = torch.empty_like(gradient, memory_format=torch.contiguous_format)
    out[-1] = 0
    for n in range(len(out) - 1, 0, -1):
        torch.addcmul(gradient[n], out[n], decay[n, :, None, None], out=out[n - 1])
        out[n - 1].baddbmm_(projection[n].mT, out[n], alpha=-1)
    return out


@scan_backward.register_fake
def _(gradient: Tensor, projection: Tensor, decay: Tensor) -> Tensor:
    return torch.empty_like(gradient, memory_format=torch.contiguous_format)


def _save_scan(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    projection, _, decay = inputs
    ctx.save_for_backward(projection, decay, output)


def _scan_gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    projection, decay, states = ctx.saved_tensors
    addition = scan_backward(gradient, projection, decay)
    return -addition @ states.mT, addition, (addition * states).sum((-1, -2))


scan.register_autograd(_scan_gradients, setup_context=_save_scan)
