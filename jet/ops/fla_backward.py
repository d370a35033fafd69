"""Replacement in plain PyTorch for one kernel of flash-linear-attention, needed for training on Hopper GPUs.

Triton 3.4 to 3.7.0 compiles the library's `chunk_bwd_dqkwg` wrongly on Hopper GPUs (the library's issue 640),
so the library raises an error there. `install()` registers the function of this module in its place, in the
library's registry of backends.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def chunk_bwd_dqkwg_torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    do: Tensor,
    h: Tensor,
    dh: Tensor,
    w: Tensor,
    g: Tensor,
    dv: Tensor,
    scale: float,
    chunk: int = 64,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of q, k, w and g in each chunk from the states `h` and their gradients `dh`.

    With G the log decay since the chunk's start, the chunk's outputs and the state after it are

        o_i = scale · (2^G_i · hᵀ q_i + Σ_{j ≤ i} 2^(G_i - G_j) (q_i · k_j) v_j)
        h'  = 2^G_last · h + Σ_j 2^(G_last - G_j) k_j v_jᵀ        where v = u - w h.

    Args:
        q, k, w: `[B, T, H, K]`.
        v: the corrected values, `[B, T, H, V]`; `do`, `dv`: gradients of the output and of v, the same shape.
        h: state before each chunk, `[B, chunks, H, K, V]`; `dh`: gradient of the state after it.
        g: `[B, T, H]` float32, the logarithm to base 2 of the decay, cumulative from the chunk's start.
        scale: factor of q.
        chunk: tokens of a chunk; the last one may be shorter.

    Returns:
        Gradients of q, k and w in their types, and of g (as a natural logarithm) in float32.
    """
    length = q.shape[1]
    blocks = [_into_chunks(x, chunk) for x in (q, k, v, do, dv)]
    qc, kc, vc, doc, dvc = blocks
    decay = _decay_chunks(g, chunk)  # [N, C]
    hc, dhc = h.flatten(0, 2), dh.flatten(0, 2)
    last = decay[:, -1:]

    dq = _product(doc, hc.mT) * (decay.exp2() * scale)[..., None]
    dk = _product(vc, dhc.mT) * (last - decay).exp2()[..., None]
    dw = -_product(dvc, hc.mT)
    # What the state carries over the chunk's end falls on the last decay.
    carried = (hc.to(dk) * dhc.to(dk)).sum((-1, -2)) * last[:, 0].exp2() + (dk * kc).sum((-1, -2))

    later = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).triu(1)
    between = (decay[:, :, None] - decay[:, None, :]).masked_fill(later, float("-inf")).exp2()
    scores = (_product(doc, vc.mT) * between * scale).to(q.dtype)
    dq = dq + _product(scores, kc)
    dk = dk + _product(scores.mT, qc)

    dg = _from_chunks(((dq * qc).sum(-1) - (dk * kc).sum(-1))[..., None], g.shape)[..., 0]
    ends = torch.arange(chunk - 1, length + chunk - 1, chunk, device=q.device).clamp(max=length - 1)
    dg.index_add_(1, ends, carried.view(g.shape[0], -1, g.shape[2]))
    return (
        _from_chunks(dq, q.shape).to(q),
        _from_chunks(dk, k.shape).to(k),
        _from_chunks(dw, w.shape).to(w),
        dg,
    )


def _into_chunks(x: Tensor, chunk: int) -> Tensor:
    """Split `[B, T, H, D]` into chunks `[B · chunks · H, chunk, D]`, padded with zeros."""
    x = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % chunk))
    blocks: Tensor = x.unflatten(1, (-1, chunk)).transpose(2, 3).flatten(0, 2)
    return blocks


def _decay_chunks(g: Tensor, chunk: int) -> Tensor:
    """Split log decays `[B, T, H]` into chunks, `[B · chunks · H, chunk]`.

    The last chunk is padded with its last value, so padding adds no decay.
    """
    missing = -g.shape[1] % chunk
    if missing:
        g = torch.cat([g, g[:, -1:].expand(-1, missing, -1)], dim=1)
    blocks: Tensor = g.unflatten(1, (-1, chunk)).transpose(2, 3).flatten(0, 2)
    return blocks


def _from_chunks(x: Tensor, shape: torch.Size) -> Tensor:
    """Undo `_into_chunks`: return `[B, T, H, D]`; `shape` begins with B, T, H."""
    batch, length, heads = shape[:3]
    rows: Tensor = x.unflatten(0, (batch, -1, heads)).transpose(2, 3).flatten(1, 2)[:, :length]
    return rows.contiguous()


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Return the batched matrix product in at least float32."""
    if a.is_cuda and a.dtype in (torch.bfloat16, torch.float16):
        return torch.bmm(a, b.to(a.dtype), out_dtype=torch.float32)
    return a @ b.to(a.dtype)


@cache
def install() -> bool:
    """Register `chunk_bwd_dqkwg_torch` with the library if the library's own kernel would raise an error.

    Returns whether it was registered.
    """
    from fla.backends import BaseBackend, register
    from fla.ops.common import chunk_o

    broken = chunk_o.IS_NVIDIA_HOPPER and chunk_o.TRITON_ABOVE_3_4_0 and not chunk_o.TRITON_ABOVE_3_7_1
    if not broken:
        return False

    class TorchBackwardBackend(BaseBackend):  # type: ignore[misc]
        """A backend for the library's registry.

        It serves calls with a gate and with rows of equal length only.
        """

        backend_type = "plain_gradient"

        def chunk_bwd_dqkwg_verifier(self, *args: Any, **given: Any) -> tuple[bool, str | None]:
            refused = given.get("g_gamma") is not None or given.get("cu_seqlens") is not None
            refused = refused or given.get("state_v_first", False)
            simple = not refused and all(given.get(name) is not None for name in ("g", "w", "dv", "scale"))
            same_heads = simple and given["q"].shape[2] == given["v"].shape[2]
            return same_heads, None if same_heads else "another form of the rule"

        def chunk_bwd_dqkwg(self, **given: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            names = ("q", "k", "v", "do", "h", "dh", "w", "g", "dv", "scale")
            return chunk_bwd_dqkwg_torch(
                **{name: given[name] for name in names}, chunk=given.get("chunk_size", 64)
            )

        def verify(self, function_name: str, *args: Any, **given: Any) -> tuple[bool, str | None]:
            if function_name != "chunk_bwd_dqkwg" or args:
                return False, "not this function"
            return self.chunk_bwd_dqkwg_verifier(**given)

    register("common")(TorchBackwardBackend)
    return True
