"""Compare the step for a few rows, whose products include all other operations, with plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from jet.cache.state_pool import PAGE_SIZE, StatePool
from jet.engine.decode_step import DecodeStep
from jet.ops.backends import OpBackend, _fused_backend, reference_backend
from jet.ops.decode_batch import DecodeBatch
from jet.ops.triton import fused_skinny
from jet.ops.triton.decode_attention import AttentionScratch
from jet.ops.triton.fused_skinny import ProductCut
from tests.networks import small_model
from tests.ops.triton.test_decode_kernels import DEVICE, empty, normal, weights

# The interpreter multiplies the bits of bfloat16 matrices.
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float16
TOLERANCE = {torch.bfloat16: 3e-2, torch.float16: 4e-3}[DTYPE]
CUTS = [None, ProductCut(16, 2, 16), ProductCut(32, 4, 16, parts=2, programs=3)]
EPS = 1e-5


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def agree(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.float(), theirs.float(), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize(("rows", "c"), [(2, 48), (17, 129)])
def test_a_chain_of_products(rows: int, c: int, cut: ProductCut | None) -> None:
    """Test residual, norm, bias, activation and gate in products that pass the residual stream on."""
    n = 70
    workspace = fused_skinny.Workspace(dtype=DTYPE)
    h, first, scales = normal(rows, c).to(DTYPE), weights(n, c, DTYPE), normal(2, n, dtype=DTYPE)
    linear, bias, gate_up = weights(37, n, DTYPE), normal(37, dtype=DTYPE), weights(2 * n, n, DTYPE)
    x, out, hidden = normal(rows, n), empty(rows, 37), empty(rows, n).to(DTYPE)
    copied = empty(rows, 5).to(DTYPE)
    expected = x + h.float() @ first.float().T
    add = fused_skinny.linear_add(workspace, h, first, x, cut)
    activated = {"activated": 20, "copied": copied, "copied_from": 9}
    project = fused_skinny.norm_linear(workspace, x, scales[0], EPS, linear, bias, out, **activated, cut=cut)
    add()
    project()
    agree(x, expected)
    normed = torch.nn.functional.rms_norm(expected, (n,), scales[0].float(), EPS)
    projected = normed @ linear.float().T + bias.float()
    projected[:, :20] = torch.nn.functional.silu(projected[:, :20])
    agree(out, projected)
    agree(copied, projected[:, 9:14])

    again = fused_skinny.linear_add(workspace, hidden, weights(n, n, DTYPE), x, cut)
    gate = fused_skinny.norm_swiglu(workspace, x, scales[1], EPS, gate_up, hidden, cut)
    hidden.zero_()
    again()  # adds nothing
    gate()
    normed = torch.nn.functional.rms_norm(x, (n,), scales[1].float(), EPS)
    gates, ups = (normed @ gate_up.float().T).chunk(2, 1)
    agree(hidden, torch.nn.functional.silu(gates) * ups)


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize(("heads", "size"), [(3, 32), (2, 64)])
def test_divisors_of_heads(heads: int, size: int, cut: ProductCut | None) -> None:
    rows, n, shares = 5, 40, 3
    workspace = fused_skinny.Workspace(dtype=DTYPE)
    o, squares = normal(rows, heads * size).to(DTYPE), normal(rows, heads, shares) ** 2 * size
    weight, x, scale = weights(n, heads * size, DTYPE), normal(rows, n), normal(n, dtype=DTYPE)
    divided = o.float().unflatten(1, (heads, size)) * torch.rsqrt(squares.sum(2, keepdim=True) / size + EPS)
    expected = x + divided.flatten(1) @ weight.float().T
    run = fused_skinny.heads_linear_add(workspace, o, squares, EPS, weight, x, cut)
    stream = workspace.read_stream(scale)
    run()
    agree(x, expected)
    agree(stream.squares.sum(1), (expected**2).sum(1))
    agree(stream.scaled, expected * scale.float())


def operations(name: str, rows: int, heads: int, kv_heads: int, head_dim: int) -> OpBackend:
    if name == "torch":
        return reference_backend()
    scratch = AttentionScratch.make(rows, heads, head_dim, 8, DEVICE)
    return _fused_backend(scratch, pdl=False, dtype=DTYPE)


@pytest.mark.thorough
@pytest.mark.parametrize("rows", [2, 5])
def test_a_whole_step(rows: int) -> None:
    """Compare the logits of three tokens in every row with those of PyTorch operations."""
    logits = {}
    for name in ("torch", "triton"):
        torch.manual_seed(1)
        model = small_model().to(DEVICE, DTYPE)
        config = model.config
        pool = StatePool(config, rows + 1, (rows + 1) * PAGE_SIZE, model.dtype, DEVICE)
        state = DecodeBatch.make(rows, DEVICE, null_slot=pool.null_slot)
        slots = [pool.allocate(1) for _ in range(rows)]
        for slot in slots:
            pool.reserve(slot, 8)
        state.slot.copy_(torch.tensor(slots))
        sizes = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        step = DecodeStep(model, pool, state, operations(name, rows, *sizes))
        logits[name] = []
        with torch.inference_mode():
            for position in range(3):
                state.token.copy_(torch.arange(rows) * 3 + position)
                state.position.fill_(position)
                step.run()
                logits[name].append(step.logits.clone())
    for ours, theirs in zip(logits["triton"], logits["torch"], strict=True):
        assert (ours - theirs).norm() < 4 * TOLERANCE * theirs.norm()
