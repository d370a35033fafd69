"""Compare the batched operations with their torch twins: exactly in float32, else up to rounding."""

# ruff: noqa: E402 (Triton decides when it is imported whether it compiles or interprets)

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton")

from jet.ops import reference
from jet.ops.quantization import SCHEMES, QuantizedTensor, quantize
from jet.ops.reference import JetSizes
from jet.ops.triton import batched_decode

pytestmark = pytest.mark.thorough

EPS = 1e-5
TYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
SHAPES = [(9, 10, 33), (8, 21, 1025)]  # rows, outputs, inputs


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape).to(DEVICE, dtype)


def weights(n: int, c: int, dtype: torch.dtype) -> Tensor:
    return (torch.randn(n, c) * c**-0.5).to(DEVICE, dtype)


def empty(*shape: int) -> Tensor:
    return torch.full(shape, float("nan"), device=DEVICE)


def agree(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(ours, theirs, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    rows, n, c = shape
    x, norm = normal(rows, c), normal(c, dtype=dtype)
    weight, bias = weights(n, c, dtype), normal(n, dtype=dtype)
    for given in (None, bias):
        ours, theirs = empty(rows, n), empty(rows, n)
        run = batched_decode.norm_linear(batched_decode.Workspace(), x, norm, EPS, weight, given, ours)
        run()
        run()  # again on the same memory
        reference.norm_linear_reference(x, norm, EPS, weight, given, theirs)
        agree(ours, theirs, dtype)

    gate_up, ours, theirs = weights(2 * n, c, dtype), empty(rows, n), empty(rows, n)
    batched_decode.norm_swiglu(batched_decode.Workspace(), x, norm, EPS, gate_up, ours)()
    reference.norm_swiglu_reference(x, norm, EPS, gate_up, theirs)
    agree(ours, theirs, dtype)

    ours = normal(rows, n)
    theirs = ours.clone()
    batched_decode.linear_add(batched_decode.Workspace(), x, weight, ours)()
    reference.linear_add_reference(x, weight, theirs)
    agree(ours, theirs, dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("most", [2**25, 5 * 1025])
def test_products_of_codes(
    scheme: str, dtype: torch.dtype, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run three products with one workspace; matrices are dequantized as a whole or in parts."""
    monkeypatch.setattr(batched_decode, "MAX_DEQUANTIZED", most)
    workspace, rows, n, c = batched_decode.Workspace(), 9, 21, 1025
    weight, gate_up = coded(n, c, scheme, dtype), coded(2 * n, c, scheme, dtype)
    x, norm, ours, theirs = normal(rows, c), normal(c, dtype=dtype), empty(rows, n), empty(rows, n)
    runs = [
        batched_decode.norm_linear(workspace, x, norm, EPS, weight, None, ours),
        batched_decode.linear_add(workspace, x, weight, ours),
        batched_decode.norm_swiglu(workspace, x, norm, EPS, gate_up, ours),
    ]
    expected = [
        lambda: reference.norm_linear_reference(x, norm, EPS, weight, None, theirs),
        lambda: reference.linear_add_reference(x, weight, theirs),
        lambda: reference.norm_swiglu_reference(x, norm, EPS, gate_up, theirs),
    ]
    for run, twin in zip(runs, expected, strict=True):
        run()
        twin()
        agree(ours, theirs, dtype)


def coded(n: int, c: int, scheme: str, dtype: torch.dtype) -> QuantizedTensor:
    weight = weights(n, c, torch.float32)
    return quantize(lambda begin, end: weight[begin:end], (n, c), scheme, dtype, weight.device)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("heads", "size"), [(3, 20), (1, 33), (4, 64)])
def test_the_gated_norm(heads: int, size: int, dtype: torch.dtype) -> None:
    rows, n = 11, 17
    o, wide = normal(rows, heads * size), normal(rows, heads * size + 9)
    gate, norm, weight = (
        wide[:, 5 : 5 + heads * size],
        normal(size, dtype=dtype),
        weights(n, heads * size, dtype),
    )
    ours = normal(rows, n)
    theirs = ours.clone()
    batched_decode.gated_norm_linear_add(batched_decode.Workspace(), o, gate, norm, EPS, weight, ours)()
    reference.gated_norm_linear_add_reference(o, gate, norm, EPS, weight, theirs)
    agree(ours, theirs, dtype)


SIZES = [JetSizes(3, 12, 18, 24, 4), JetSizes(1, 96, 20, 7, 3)]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_jet_step(sizes: JetSizes, dtype: torch.dtype) -> None:
    """Run three tokens of every row, in slots of any order, among slots that must stay unchanged."""
    rows, places, channels = 5, 8, sizes.num_heads * sizes.head_v_dim
    slots = torch.randperm(places)[:rows].int().to(DEVICE)
    generator = (
        weights(channels * sizes.conv_size, sizes.generator_dim, dtype),
        normal(channels * sizes.conv_size, dtype=dtype),
    )
    decays = normal(sizes.num_heads), normal(sizes.num_heads)
    shapes = (
        (places, channels, sizes.conv_size),
        (places, sizes.num_heads, sizes.head_k_dim, sizes.head_v_dim),
    )
    ours = normal(*shapes[0], dtype=dtype), normal(*shapes[1])
    theirs = ours[0].clone(), ours[1].clone()
    projected = empty(rows, sum(sizes.split_sizes))
    out, expected = empty(rows, channels), empty(rows, channels)
    run = batched_decode.jet_step(
        batched_decode.Workspace(), projected, *generator, *decays, slots, *ours, out, sizes
    )
    for _ in range(3):
        projected.copy_(normal(rows, sum(sizes.split_sizes)))
        run()
        reference.jet_step_reference(projected, *generator, *decays, slots, *theirs, expected, sizes)
        agree(out, expected, dtype)
        if DEVICE == "cuda":  # the interpreter does not round to the nearest
            assert torch.equal(ours[0], theirs[0])
        agree(ours[0].float(), theirs[0].float(), dtype)
        agree(ours[1], theirs[1], dtype)
