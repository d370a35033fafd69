"""Test quantized activations and products of the thread pool against their torch definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("numba")


from jet.ops import reference as fused
from jet.ops.activations import (
    ACTIVATION_GROUP_SIZE,
    linear_reference,
    quantize_activations,
    round_activations,
)
from jet.ops.numba import isa_probe as probe
from jet.ops.numba import simd
from jet.ops.numba import threaded_ops as pooled
from jet.ops.numba.threaded_ops import Layers
from jet.ops.quantization import SCHEMES, QuantizedTensor, Weight, quantize
from jet.ops.reference import JetSizes

EPS = 1e-5
THOROUGH = pytest.mark.thorough  # what takes seconds to compile
TYPES = [torch.bfloat16, *(pytest.param(dtype, marks=THOROUGH) for dtype in (torch.float32, torch.float16))]
# Rows and columns: odd, halves that end within a group, whole groups; rows that are no multiple of four.
SHAPES = [((10, 33), 1), ((21, 384), 5), ((5, 90), 2), ((9, 1025), 4), ((3, 7), 1), ((4, 256), 9)]

pytestmark = pytest.mark.timeout(300)  # what is not compiled yet takes seconds


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def coded(n: int, c: int, scheme: str) -> QuantizedTensor:
    weight = torch.randn(n, c) * c**-0.5
    return quantize(lambda begin, end: weight[begin:end], (n, c), scheme, torch.float32, weight.device)


def empty(*shape: int) -> Tensor:
    return torch.full(shape, math.nan)


def near(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


# --- the definition --------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-(2.0**90), 2.0**90, width=32), min_size=32, max_size=32),
    st.integers(0, 3),
    st.integers(0, 2),
)
def test_activations_are_off_by_half_a_step_at_most(numbers: list[float], before: int, behind: int) -> None:
    x = F.pad(torch.tensor(numbers), (32 * before, 32 * behind))
    codes, scales = quantize_activations(x)
    steps = scales.repeat_interleave(ACTIVATION_GROUP_SIZE)
    assert ((codes * steps - x).abs() <= 0.5001 * steps + 1e-30).all()
    assert codes.dtype == torch.int8 and codes.abs().max() <= 127


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_in_the_scale_of_its_group_alone(bad: float) -> None:
    x = torch.randn(2, 96)
    x[1, 40] = bad
    _, scales = quantize_activations(x)
    assert scales.isnan().tolist() == [[False] * 3, [False, True, False]]


# --- products --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("shape", "rows"), SHAPES, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_products_are_those_of_the_definition(
    shape: tuple[int, int], rows: int, scheme: str, threads: int
) -> None:
    (n, c), layers = shape, Layers(threads)
    x, weight, bias = torch.randn(rows, c), coded(n, c, scheme), torch.randn(n)
    out, h = empty(rows, n), torch.randn(rows, n)
    layers.linear(x, weight, bias, out)()
    near(out, linear_reference(x, weight, bias))
    expected = h + linear_reference(x, weight)
    layers.linear_add(x, weight, h)()
    near(h, expected)
    near(pooled.multiply(x[None].double(), weight).float(), linear_reference(x, weight)[None])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("shape", "rows"), SHAPES, ids=str)
def test_norms_and_activations_are_part_of_products(shape: tuple[int, int], rows: int, scheme: str) -> None:
    # Within what one code does that a last bit of the norm decides, which is a tenth of all rounding.
    (n, c), layers = shape, Layers(2)
    x, scale = torch.randn(rows, c), torch.rand(c) + 0.5
    weight, gate_up, out = coded(n, c, scheme), coded(2 * n, c, scheme), empty(rows, n)
    normed = F.rms_norm(x, (c,), scale, EPS)
    layers.norm_linear(x, scale, EPS, weight, None, out)()
    near(out, linear_reference(normed, weight), 4e-3)
    layers.norm_swiglu(x, scale, EPS, gate_up, out)()
    gate, up = linear_reference(normed, gate_up).chunk(2, 1)
    near(out, F.silu(gate) * up, 4e-3)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("heads", [(12, 64), (3, 20)], ids=str)
def test_gated_norms_are_part_of_products(heads: tuple[int, int], scheme: str) -> None:
    (count, size), n, rows = heads, 11, 5
    c = count * size
    o, gate, scale = torch.randn(rows, c), torch.randn(rows, c + 9)[:, 4 : 4 + c], torch.rand(size) + 0.5
    weight, x = coded(n, c, scheme), torch.randn(rows, n)
    normed = F.rms_norm(o.unflatten(1, (-1, size)), (size,), scale, EPS).flatten(1)
    expected = x + linear_reference(normed * F.silu(gate), weight)
    Layers(2).gated_norm_linear_add(o, gate, scale, EPS, weight, x)()
    near(x, expected, 4e-3)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_threads_multiply_by_numbers_too(dtype: torch.dtype) -> None:
    n, c, rows, layers = 2100, 96, 5, Layers(2)
    weight, scale = (torch.randn(n, c) * 0.1).to(dtype), torch.randn(c).to(dtype)
    x, out, expected = torch.randn(rows, c), empty(rows, n // 2), empty(rows, n // 2)
    layers.norm_swiglu(x, scale, EPS, weight, out)()
    fused.norm_swiglu_reference(x, scale, EPS, weight, expected)
    near(out, expected, 1e-4)
    h, sums = torch.randn(rows, n), empty(rows, n)
    sums.copy_(h)
    layers.linear_add(x, weight, h)()
    fused.linear_add_reference(x, weight, sums)
    near(h, sums, 1e-4)


@pytest.mark.parametrize("scheme", [*SCHEMES, "bfloat16"])
def test_a_row_is_the_same_alone_and_with_others_bit_for_bit(scheme: str) -> None:
    n, c = 130, 330
    weight: Weight = torch.randn(n, c).bfloat16() if scheme == "bfloat16" else coded(n, c, scheme)
    x, together = torch.randn(9, c), empty(9, n)
    Layers(2).linear(x, weight, None, together)()
    for rows in range(1, 9):
        for threads in (1, 2):
            some = empty(rows, n)
            Layers(threads).linear(x[:rows], weight, None, some)()
            assert torch.equal(some, together[:rows]), (rows, threads)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_seen_in_the_output(scheme: str, bad: float) -> None:
    weight, x, out = coded(5, 70, scheme), torch.randn(2, 70), torch.zeros(2, 5)
    x[1, 13] = bad
    Layers(1).norm_linear(x, torch.ones(70), EPS, weight, None, out)()
    assert out.isfinite().all(1).tolist() == [True, False]
    assert not out[1].isfinite().any()


def test_bound_products_see_what_their_tensors_hold_by_then() -> None:
    x, weight, out = torch.randn(3, 40), coded(6, 40, "int4"), empty(3, 6)
    bound = Layers(1).linear(x, weight, None, out)
    for rows in (3, 1, 2):
        x.normal_()
        out.fill_(math.nan)
        bound.resize(rows)
        bound()
        near(out[:rows], linear_reference(x[:rows], weight))
        assert out[rows:].isnan().all()


def test_what_does_not_fit_is_refused() -> None:
    layers, weight = Layers(1), coded(6, 40, "int8")
    with pytest.raises(ValueError, match="must fit"):
        layers.linear(torch.randn(1, 41), weight, None, empty(1, 6))
    with pytest.raises(ValueError, match="float32"):
        layers.linear(torch.randn(1, 40).double(), weight, None, empty(1, 6))
    with pytest.raises(ValueError, match="heads"):
        layers.gated_norm_linear_add(
            torch.randn(1, 40), torch.randn(1, 40), torch.ones(7), EPS, weight, empty(1, 6)
        )


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("scheme", [None, *SCHEMES])
def test_jet_steps_are_those_of_the_definition(scheme: str | None, dtype: torch.dtype) -> None:
    sizes, rows = JetSizes(num_heads=3, head_k_dim=20, head_v_dim=16, generator_dim=10, conv_size=4), 3
    channels = sizes.num_heads * sizes.head_v_dim
    shape = (channels * sizes.conv_size, sizes.generator_dim)
    weight: Weight = torch.randn(shape).to(dtype) if scheme is None else coded(*shape, scheme)
    projected, out, expected = (
        torch.randn(rows, sum(sizes.split_sizes)),
        empty(rows, channels),
        empty(rows, channels),
    )
    bias, rate, shift = torch.randn(shape[0]), torch.rand(sizes.num_heads), torch.randn(sizes.num_heads)
    slots = torch.tensor([4, 0, 2], dtype=torch.int32)
    conv = torch.randn(5, channels, sizes.conv_size).to(dtype)
    state = torch.randn(5, sizes.num_heads, sizes.head_k_dim, sizes.head_v_dim)
    others = conv.clone(), state.clone()
    layers = Layers(2)
    layers.jet_step(projected, weight, bias, rate, shift, slots, conv, state, out, sizes)()
    numbers = projected.clone()
    if isinstance(
        weight, QuantizedTensor
    ):  # the definition rounds what it multiplies by codes, here after silu
        hidden = F.silu(projected.split(sizes.split_sizes, 1)[2])
        kernels = linear_reference(hidden, weight, bias)
        near(layers._workspace.kernels(rows, shape[0]), kernels, 4e-3)
        return
    fused.jet_step_reference(numbers, weight, bias, rate, shift, slots, *others, expected, sizes)
    near(out, expected, 1e-4)
    near(state, others[1], 1e-4)
    assert torch.equal(conv, others[0])


@pytest.mark.parametrize("isa", [pytest.param(isa, marks=pytest.mark.thorough) for isa in simd.ISAS])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_instruction_set_multiplies_alike(scheme: str, isa: str) -> None:
    if isa not in simd.supported_isas():
        pytest.skip("not on this processor")
    draw = np.random.default_rng(0)
    x, scales = draw.standard_normal((4, 256), np.float32), np.ones((0, 16), np.float16)
    if scheme == "int8":
        codes = draw.integers(-127, 128, (16, 256)).astype(np.int8)
    else:
        codes = draw.integers(0, 256, (16, 128)).astype(np.uint8)
        scales = draw.uniform(0.5, 1, (4, 16)).astype(np.float16)
    best = probe.products(simd, scheme, simd.supported_isas()[0], x, codes, scales)
    assert np.array_equal(probe.products(simd, scheme, isa, x, codes, scales), best)


@pytest.mark.thorough
def test_an_instruction_set_that_kills_its_process_is_not_used(tmp_path, caplog) -> None:
    isa = next(isa for isa in simd.ISAS if isa not in (*simd.supported_isas(), "AVX2", "plain"))
    assert not probe.works(isa, tmp_path)
    assert "slower ones" in caplog.text
    assert [file.read_text() for file in tmp_path.iterdir()] == ["no"]
    next(tmp_path.iterdir()).write_text("yes")
    assert probe.works(isa, tmp_path), "what is known is not tried again"


def test_rounding_meets_an_int4_weights_runs() -> None:
    weight, x = coded(4, 70, "int4"), torch.randn(2, 70)
    x[:, 35] = 100.0  # the largest of the second run, which begins there
    rounded = round_activations(x, weight)
    assert (rounded[:, :35] - x[:, :35]).abs().max() < 0.02
    assert (rounded[:, 36:67] - x[:, 36:67]).abs().max() > 0.02
