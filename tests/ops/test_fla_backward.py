"""Compare the replacement of the library's miscompiled gradient with autograd on the same formulas."""

from __future__ import annotations

import math

import pytest
import torch

from jet.ops.fla_backward import chunk_bwd_dqkwg_torch

CHUNK = 16


def chunk_outputs(q, k, v, h, g, scale):
    """Compute the outputs of every chunk and the states after it, directly from the formulas."""
    outputs, states = [], []
    for number, begin in enumerate(range(0, q.shape[1], CHUNK)):
        qc, kc, vc, gc = (x[:, begin : begin + CHUNK].transpose(1, 2) for x in (q, k, v, g[..., None]))
        gc = gc[..., 0]
        ratio = (gc[..., :, None] - gc[..., None, :]).tril().exp().tril()
        inside = (qc @ kc.mT * ratio) @ vc
        outputs.append((scale * (gc.exp()[..., None] * (qc @ h[:, number]) + inside)).transpose(1, 2))
        last = gc[..., -1:]
        keys = kc * (last - gc).exp()[..., None]
        states.append(last.exp()[..., None] * h[:, number] + keys.mT @ vc)
    return torch.cat(outputs, dim=1), torch.stack(states, dim=1)


@pytest.mark.parametrize("length", [CHUNK, 3 * CHUNK, 2 * CHUNK + 5, 3])
def test_equals_autograd(length):
    torch.manual_seed(length)
    batch, heads, key, value, scale = 2, 3, 5, 7, 0.3
    chunks = -(-length // CHUNK)
    q, k, w = (torch.randn(batch, length, heads, key, dtype=torch.float64) for _ in range(3))
    v, do, dv = (torch.randn(batch, length, heads, value, dtype=torch.float64) for _ in range(3))
    h, dh = (torch.randn(batch, chunks, heads, key, value, dtype=torch.float64) for _ in range(2))
    steps = -torch.rand(batch, length, heads, dtype=torch.float64)
    g = torch.cat([part.cumsum(1) for part in steps.split(CHUNK, dim=1)], dim=1)

    leaves = [x.clone().requires_grad_() for x in (q, k, g)]
    o, following = chunk_outputs(leaves[0], leaves[1], v, h, leaves[2], scale)
    dq, dk, dg = torch.autograd.grad((o * do).sum() + (following * dh).sum(), leaves)
    blocks = h.repeat_interleave(CHUNK, dim=1)[:, :length]  # the state before each token's chunk
    dw = -torch.einsum("bthv,bthkv->bthk", dv, blocks)

    given = chunk_bwd_dqkwg_torch(q, k, v, do, h, dh, w, g / math.log(2), dv, scale, chunk=CHUNK)
    for name, got, expected in zip(["q", "k", "w", "g"], given, (dq, dk, dw, dg), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"d{n}: {m}")
