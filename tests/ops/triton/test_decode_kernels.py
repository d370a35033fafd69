"""Compare the decode step's kernels with their torch twins: any sizes, weights and numbers of rows."""

# ruff: noqa: E402 (Triton decides when it is imported whether it compiles or interprets)

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton")

from jet.modeling.attention import rotary_angles
from jet.modeling.cache import HybridCache
from jet.modeling.config import JetNemotronConfig
from jet.ops import reference
from jet.ops.quantization import SCHEMES, QuantizedTensor, quantize
from jet.ops.reference import JetSizes
from jet.ops.triton import gemv as kernels
from jet.ops.triton import int_gemv as coded_kernels
from jet.ops.triton import jet_step as jet_kernels
from jet.ops.triton.gemv_config import QUANTIZED_CONFIGS, GemvConfig, default_gemv_config, gemv_config_for
from tests.networks import small_model
from tests.ops.jet_sizes import JET_SIZES

pytestmark = pytest.mark.thorough

TYPES = [torch.float32, torch.bfloat16, torch.float16]
ROWS = [1, 2, 3, 5]
EPS = 1e-5
# Rows and columns: odd, smaller than a tile, a multiple of it, more than one tile.
SHAPES = [(3, 7), (10, 33), (16, 128), (21, 384), (9, 1025)]
TILINGS = [None, GemvConfig(1, 64, 1), GemvConfig(4, 32, 2), GemvConfig(2, 512, 4)]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape).to(DEVICE, dtype)


def weights(n: int, c: int, dtype: torch.dtype) -> Tensor:
    return (torch.randn(n, c) * c**-0.5).to(DEVICE, dtype)


def coded(n: int, c: int, scheme: str) -> QuantizedTensor:
    weight = weights(n, c, torch.float32)
    return quantize(lambda begin, end: weight[begin:end], (n, c), scheme, torch.float32, weight.device)


def empty(*shape: int) -> Tensor:
    return torch.full(shape, float("nan"), device=DEVICE)


def agree(one: Tensor, other: Tensor, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def tolerance(weight: Tensor | QuantizedTensor) -> float:
    """Return the tolerance for a weight; products with quantized weights round their inputs to 16 bits."""
    return 2e-4 if isinstance(weight, QuantizedTensor) else 2e-5


def compare_norm_swiglu(rows, norm, gate_up, config) -> None:
    """Compare the kernel with its definition, for any format of the weight."""
    given = (normal(rows, len(norm)), norm, EPS, gate_up)
    out, expected = empty(rows, len(gate_up) // 2), empty(rows, len(gate_up) // 2)
    kernels.norm_swiglu(*given, out, config=config)
    reference.norm_swiglu_reference(*given, expected)
    agree(out, expected, tolerance(gate_up))


def compare_linear_add(rows, weight, config) -> None:
    """Compare a product that is added to its output with its definition."""
    n, c = weight.shape
    h, x = normal(rows, c), normal(rows, n)
    expected = x.clone()
    kernels.linear_add(h, weight, x, config=config)
    reference.linear_add_reference(h, weight, expected)
    agree(x, expected, tolerance(weight))


# All combinations would only repeat themselves: every two things meet, in some of them.
CASES = [(SHAPES[i % 5], TYPES[i % 3], ROWS[i % 4], TILINGS[i // 4 % 4]) for i in range(20)]


@pytest.mark.parametrize(("shape", "dtype", "rows", "config"), CASES, ids=str)
class TestProducts:
    @pytest.mark.parametrize("biased", [False, True], ids=["plain", "biased"])
    def test_norm_linear(self, shape, dtype, rows, config, biased) -> None:
        n, c = shape
        bias = normal(n, dtype=dtype) if biased else None
        given = (normal(rows, c), normal(c, dtype=dtype), EPS, weights(n, c, dtype), bias)
        out, expected = empty(rows, n), empty(rows, n)
        kernels.norm_linear(*given, out, config=config)
        reference.norm_linear_reference(*given, expected)
        agree(out, expected)

    def test_norm_swiglu(self, shape, dtype, rows, config) -> None:
        n, c = shape
        compare_norm_swiglu(rows, normal(c, dtype=dtype), weights(2 * n, c, dtype), config)

    def test_linear_add(self, shape, dtype, rows, config) -> None:
        n, c = shape
        compare_linear_add(rows, weights(n, c, dtype), config)


@pytest.mark.parametrize(("n", "c"), [(5, 33), (16, 128)])
def test_what_lies_between_two_products_may_be_short(n: int, c: int) -> None:
    """Test a hidden vector in float16, which the interpreter rounds as the compiler does."""
    given = (normal(2, c), normal(c), EPS, weights(2 * n, c, torch.float16))
    between, expected = empty(2, n).half(), empty(2, n).half()
    kernels.norm_swiglu(*given, between)
    reference.norm_swiglu_reference(*given, expected)
    torch.testing.assert_close(between, expected, rtol=2e-3, atol=1e-4)
    weight, x = weights(c, n, torch.float16), normal(2, c)
    expected = x.clone()
    kernels.linear_add(between, weight, x)
    reference.linear_add_reference(between, weight, expected)
    agree(x, expected)


# No whole words, halves that end within a group or a part, whole groups, many tiles.
CODED = [(10, 33), (16, 128), (5, 88), (9, 384), (3, 1032), (3, 20)]
QUANTIZED = [(CODED[i % 6], SCHEMES[i % 2 ^ i // 6 % 2], ROWS[i % 3], TILINGS[i // 3 % 4]) for i in range(12)]


@pytest.mark.parametrize(("shape", "scheme", "rows", "config"), QUANTIZED, ids=str)
class TestQuantizedProducts:
    def test_norm_linear(self, shape, scheme, rows, config) -> None:
        n, c = shape
        given = (normal(rows, c), normal(c), EPS, coded(n, c, scheme), normal(n))
        out, expected = empty(rows, n), empty(rows, n)
        kernels.norm_linear(*given, out, num_activated=n // 2, config=config)
        reference.norm_linear_reference(*given, expected)
        expected[:, : n // 2] = torch.nn.functional.silu(expected[:, : n // 2])
        agree(out, expected, 2e-4)

    def test_norm_swiglu(self, shape, scheme, rows, config) -> None:
        n, c = shape
        compare_norm_swiglu(rows, normal(c), coded(2 * n, c, scheme), config)

    def test_linear_add(self, shape, scheme, rows, config) -> None:
        n, c = shape
        compare_linear_add(rows, coded(n, c, scheme), config)


def numbers_between(hidden: Tensor, size: int) -> Tensor:
    """Dequantize the packed hidden vector between the two products of an MLP."""
    words, ones = hidden[:, : size // 4].contiguous(), hidden[:, size // 4 :].contiguous()
    low, high = words.view(torch.uint8).unflatten(1, (-1, 2, 4)).unbind(2)
    whole = high.contiguous().view(torch.int8).int() * 256 + low.int()
    return whole.flatten(1) * ones.view(torch.float32)[:, : size // 16].repeat_interleave(16, 1)


# Numbers between, before; programs that end within the rows, parts that end within a tile.
MLPS = [(32, 40, 16, 64), (96, 72, 32, 32), (416, 32, 64, 128)]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("size", "hidden", "rows", "columns"), MLPS)
def test_whole_numbers_between_two_products(
    size: int, hidden: int, rows: int, columns: int, scheme: str
) -> None:
    held = kernels.packed_mlp_columns(size, hidden, scheme)
    assert held is not None
    between = torch.full((2, held), -1, dtype=coded_kernels.PACKED_INT16, device=DEVICE)
    given = (normal(2, hidden), normal(hidden), EPS, coded(2 * size, hidden, scheme))
    kernels.norm_swiglu(*given, between, config=GemvConfig(rows, columns, 2))
    expected = empty(2, size)
    reference.norm_swiglu_reference(*given, expected)
    found = numbers_between(between, size)
    agree(found, expected, 3e-4)
    weight, x = coded(hidden, size, scheme), normal(2, hidden)
    exact = x.double() + found.double() @ weight.float().double().T
    kernels.linear_add(between, weight, x, config=GemvConfig(4, columns, 2))
    agree(x.double(), exact)


def test_what_cannot_be_whole_numbers_between_two_products() -> None:
    assert kernels.packed_mlp_columns(96, 200, None) is None
    assert (
        kernels.packed_mlp_columns(24, 64, "int8") is None
        and kernels.packed_mlp_columns(48, 64, "int4") is None
    )
    assert (
        kernels.packed_mlp_columns(32, 30, "int8") is None
        and kernels.packed_mlp_columns(32, 36, "int4") is None
    )
    columns = kernels.packed_mlp_columns(32, 64, "int8")
    assert columns is not None
    hidden = torch.zeros(1, columns, dtype=coded_kernels.PACKED_INT16, device=DEVICE)
    given = (normal(1, 64), normal(64), EPS)
    with pytest.raises(ValueError, match="a multiple of 16"):
        kernels.norm_swiglu(*given, coded(64, 64, "int8"), hidden, config=GemvConfig(8, 64, 1))
    with pytest.raises(ValueError, match="need quantized weights"):
        kernels.norm_swiglu(*given, weights(64, 64, torch.float32), hidden)
    with pytest.raises(ValueError, match="must fit"):
        kernels.linear_add(hidden[:, :-1], coded(64, 32, "int8"), normal(1, 64))
    for size, scheme in ((24, "int8"), (48, "int4")):
        hidden = torch.zeros(
            1, coded_kernels.packed_columns(size), dtype=coded_kernels.PACKED_INT16, device=DEVICE
        )
        with pytest.raises(ValueError, match="no whole parts of 16"):
            kernels.linear_add(hidden, coded(64, size, scheme), normal(1, 64))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_not_finite_between_two_products_is_not_lost(scheme: str) -> None:
    hidden = torch.zeros(
        2, kernels.packed_mlp_columns(32, 64, scheme) or 0, dtype=coded_kernels.PACKED_INT16, device=DEVICE
    )
    given = normal(2, 64)
    given[1, 5] = float("nan")
    kernels.norm_swiglu(given, normal(64), EPS, coded(64, 64, scheme), hidden, config=GemvConfig(16, 32, 1))
    x = torch.zeros(2, 8, device=DEVICE)
    kernels.linear_add(hidden, coded(8, 32, scheme), x, config=GemvConfig(4, 32, 1))
    assert x[0].isfinite().all() and not x[1].isfinite().any()


HEADS = [(1, 8), (3, 20), (12, 64), (5, 33), (6, 128), (7, 16), (2, 100)]
GATED = [(HEADS[i % 7], TYPES[i % 3], ROWS[i % 4], TILINGS[i // 4 % 4]) for i in range(21)]


@pytest.mark.parametrize(("shape", "dtype", "rows", "config"), GATED, ids=str)
def test_heads_linear_add(shape, dtype, rows, config) -> None:
    (heads, size), n = shape, 11
    c = heads * size
    o, gate, norm = normal(rows, c), normal(rows, c), normal(size, dtype=dtype)
    weight, x = weights(n, c, dtype), normal(rows, n)
    expected = x.clone()
    reference.gated_norm_linear_add_reference(o, gate, norm, EPS, weight, expected)
    gated = o * norm.float().repeat(heads) * torch.nn.functional.silu(gate)
    shares = o.square().unflatten(1, (heads, size)).tensor_split(min(size, 3), dim=2)
    partial_squares = torch.stack([share.sum(-1) for share in shares], dim=-1)
    kernels.heads_linear_add(gated, partial_squares, EPS, weight, x, config=config)
    agree(x, expected)


# Heads that come in two halves of whole groups, and such that do not.
@pytest.mark.parametrize("heads", [(2, 64), (12, 128), (6, 192), (3, 64), (4, 96), (4, 20), (1, 7)], ids=str)
@pytest.mark.parametrize(
    ("scheme", "config"), [("int8", None), ("int4", None), ("int4", GemvConfig(2, 512, 4))]
)
def test_heads_linear_add_quantized(heads, scheme, config) -> None:
    (count, size), n, rows = heads, 11, 2
    c = count * size
    o, partial_squares = normal(rows, c), normal(rows, count, 3).square() * size / 3
    weight, x = coded(n, c, scheme), normal(rows, n)
    divisors = torch.rsqrt(partial_squares.sum(-1, keepdim=True) / size + EPS)
    expected = x + (o.unflatten(1, (count, size)) * divisors).flatten(1) @ weight.float().T
    given = o.clone()
    kernels.heads_linear_add(o, partial_squares, EPS, weight, x, config=config)
    agree(x, expected, 2e-4)
    assert torch.equal(o, given)


@pytest.mark.parametrize("scheme", SCHEMES)
class TestInputsInWholeNumbers:
    """Tests of the quantization of inputs of integer products."""

    def product(self, scheme: str, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return `h` times quantized weights, the error against float64, and the bound that rounding sets."""
        weight, x = coded(6, h.shape[1], scheme), torch.zeros(len(h), 6, device=DEVICE)
        kernels.linear_add(h, weight, x, config=GemvConfig(2, 64, 1))
        # Columns of a part are 16 beside each other in each tile of 64 and each half.
        columns = h.shape[1] if scheme == "int8" else h.shape[1] // 2
        parts = torch.arange(h.shape[1], device=DEVICE) % columns % 64 // 16
        steps = torch.stack([h[:, parts == part].abs().amax(1) for part in range(4)], 1)[:, parts] / 32767
        bound = 0.51 * steps @ weight.float().abs().T
        return x, x - h.double() @ weight.float().double().T, bound

    def test_roundings_are_half_of_a_32767th_of_the_largest(self, scheme: str) -> None:
        h = normal(3, 256)
        h[1, 7] = 1000
        h[2, 100:] *= 1e-4
        _, wrong, bound = self.product(scheme, h)
        assert (wrong.abs() <= bound + 1e-6 * bound.amax()).all()
        assert bound[0].amax() < 1e-3 < bound[1].amax()

    def test_nothing_comes_of_nothing(self, scheme: str) -> None:
        h = torch.zeros(2, 256, device=DEVICE)
        h[1] = normal(256) * 1e-32
        found, wrong, _ = self.product(scheme, h)
        assert (found[0] == 0).all() and (wrong[1].abs() < 1e-29).all()

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_what_is_not_finite_is_not_lost(self, scheme: str, value: float) -> None:
        h = normal(2, 256)
        h[1, 99] = value
        found, *_ = self.product(scheme, h)
        assert found[0].isfinite().all() and not found[1].isfinite().any()


@pytest.mark.parametrize("num_activated", [0, 1, 17, 33])
def test_the_first_outputs_are_activated(num_activated: int) -> None:
    given = (normal(2, 40), normal(40), EPS, weights(33, 40, torch.float32), None)
    out, expected = empty(2, 33), empty(2, 33)
    kernels.norm_linear(*given, out, num_activated=num_activated)
    reference.norm_linear_reference(*given, expected)
    expected[:, :num_activated] = torch.nn.functional.silu(expected[:, :num_activated])
    agree(out, expected)


def test_a_float32_product_is_as_exact_as_float32_gets() -> None:
    n, c = 8, 1536
    x, ones, weight = normal(1, c), torch.ones(c, device=DEVICE), weights(n, c, torch.float32)
    out, h = empty(1, n), torch.zeros(1, n, device=DEVICE)
    kernels.norm_linear(x, ones, EPS, weight, None, out)
    kernels.linear_add(x, weight, h)
    exact = x.double() @ weight.double().T
    torch.testing.assert_close(h.double(), exact, rtol=0, atol=1e-6)
    exact = exact * torch.rsqrt(x.double().square().mean() + EPS)
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=1e-6)


def test_products_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="fit each other"):
        kernels.linear_add(normal(1, 8), normal(4, 9), normal(1, 4))
    with pytest.raises(ValueError, match="contiguous"):
        kernels.linear_add(normal(1, 8), normal(8, 4).T, normal(1, 4))
    with pytest.raises(ValueError, match="squares"):
        kernels.heads_linear_add(normal(1, 8), normal(1, 3, 2), EPS, normal(4, 8), normal(1, 4))


@pytest.mark.parametrize("kind", ["norm_linear", "norm_swiglu", "linear_add", "heads_linear_add", "jet_step"])
@pytest.mark.parametrize(
    ("n", "c"), [(151936, 1536), (8960, 1536), (1536, 8960), (2048, 11008), (3072, 384), (3, 5)]
)
@pytest.mark.parametrize("itemsize", [2, 4])
def test_default_tiling_is_made_of_powers_of_two(kind, n, c, itemsize) -> None:
    config = default_gemv_config(kind, n, c, itemsize)
    for part in (config.block_n, config.block_k, config.num_warps):
        assert part > 0
        assert part & (part - 1) == 0


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", ["norm_linear", "norm_swiglu", "linear_add", "heads_linear_add", "jet_step"])
@pytest.mark.parametrize(("n", "c"), [(8, 1536), (1, 8960), (8, 3072), (4, 11008), (32, 384), (3, 5)])
def test_tiles_of_codes_are_mostly_full_or_measured(kind, n, c, scheme) -> None:
    weight = coded(n, c, scheme)
    config = gemv_config_for(kind, n, weight)
    assert config.block_k & (config.block_k - 1) == 0
    if c > 64 and (scheme, kind) not in QUANTIZED_CONFIGS:
        assert -weight.row_bytes % config.block_k <= weight.row_bytes / 8


def jet_inputs(sizes: JetSizes, rows: int, dtype: torch.dtype) -> dict[str, Tensor | JetSizes]:
    channels, places = sizes.num_heads * sizes.head_v_dim, rows + 2
    slots = torch.randperm(places)[:rows].to(DEVICE, torch.int32)
    projected = normal(rows, sum(sizes.split_sizes))
    if DEVICE == "cpu":  # Triton's interpreter truncates to bfloat16; the compiler rounds
        projected = projected.to(dtype).float() if dtype == torch.bfloat16 else projected
    return {
        "projected": projected,
        "kernels_weight": weights(channels * sizes.conv_size, sizes.generator_dim, dtype),
        "kernels_bias": normal(channels * sizes.conv_size, dtype=dtype),
        "log_decay_rate": normal(sizes.num_heads),
        "dt_bias": normal(sizes.num_heads),
        "slots": slots,
        "conv_state": normal(places, channels, sizes.conv_size, dtype=dtype),
        "recurrent_state": normal(places, sizes.num_heads, sizes.head_k_dim, sizes.head_v_dim),
        "norm_weight": normal(sizes.head_v_dim, dtype=dtype),
        "out": empty(rows, channels),
        "sizes": sizes,
    }


def run_kernel(
    inputs: dict[str, Any], config: GemvConfig | None = None, load_before_wait: bool = False
) -> Tensor:
    """Run the kernel on the reference's arguments, outputs included; return the partial squares."""
    sizes, projected = inputs["sizes"], inputs["projected"].clone()
    active = jet_kernels.num_activated(sizes)
    projected[:, :active] = torch.nn.functional.silu(projected[:, :active])
    shares = jet_kernels.num_partials(sizes, inputs["kernels_weight"], config)
    partial_squares = empty(len(projected), sizes.num_heads, shares)
    given = {**inputs, "projected": projected, "partial_squares": partial_squares}
    jet_kernels.jet_step(**given, config=config, load_before_wait=load_before_wait)
    return partial_squares


def run_reference(inputs: dict[str, Any]) -> Tensor:
    """Run the definition and the gated norm's part that the kernel includes; return the squares by head."""
    sizes, out = inputs["sizes"], inputs["out"]
    reference.jet_step_reference(**{name: value for name, value in inputs.items() if name != "norm_weight"})
    partial_squares = out.square().unflatten(1, (sizes.num_heads, -1)).sum(-1)
    gate = torch.nn.functional.silu(sizes.gate(inputs["projected"]))
    out *= inputs["norm_weight"].float().repeat(sizes.num_heads) * gate
    return partial_squares


def copied(inputs: dict[str, Tensor | JetSizes]) -> dict[str, Tensor | JetSizes]:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in inputs.items()}


@pytest.mark.parametrize(
    ("sizes", "dtype", "rows"), [(JET_SIZES[i % 5], TYPES[i % 3], ROWS[i % 4]) for i in range(15)], ids=str
)
def test_jet_step(sizes: JetSizes, dtype: torch.dtype, rows: int) -> None:
    inputs = jet_inputs(sizes, rows, dtype)
    expected = copied(inputs)
    partial_squares, wanted = run_kernel(inputs), run_reference(expected)
    agree(partial_squares.sum(-1), wanted)
    assert torch.equal(inputs["conv_state"], expected["conv_state"])
    agree(inputs["recurrent_state"], expected["recurrent_state"])
    agree(inputs["out"], expected["out"])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("generator", [48, 128, 33, 5])
def test_jet_step_quantized(generator: int, scheme: str) -> None:
    sizes = JetSizes(2, 24, 16, generator, 4)
    inputs = jet_inputs(sizes, 2, torch.float32)
    inputs["kernels_weight"] = coded(2 * 16 * 4, generator, scheme)
    expected = copied(inputs)
    partial_squares, wanted = run_kernel(inputs), run_reference(expected)
    agree(partial_squares.sum(-1), wanted)
    for name in ("conv_state", "recurrent_state", "out"):
        agree(inputs[name], expected[name])


def test_padding_rows_share_the_null_slot_and_change_no_other() -> None:
    inputs = jet_inputs(JetSizes(2, 24, 16, 8, 4), 5, torch.float32)
    inputs["slots"] = torch.tensor([3, 6, 0, 6, 6], dtype=torch.int32, device=DEVICE)
    expected = copied(inputs)
    run_kernel(inputs)
    run_reference(expected)
    agree(inputs["out"][[0, 2]], expected["out"][[0, 2]])
    for name in ("conv_state", "recurrent_state"):
        agree(inputs[name][:6], expected[name][:6])


@pytest.mark.parametrize(
    ("config", "load_before_wait"),
    [
        (GemvConfig(1, 16, 1), False),
        (GemvConfig(4, 8, 2), True),
        (GemvConfig(16, 64, 4), False),
        (GemvConfig(16, 64, 4), True),
    ],
    ids=str,
)
def test_jet_step_can_be_cut_in_many_ways(config: GemvConfig, load_before_wait: bool) -> None:
    inputs = jet_inputs(JetSizes(2, 48, 20, 40, 4), 2, torch.float32)
    expected = copied(inputs)
    run_kernel(inputs, config, load_before_wait)
    run_reference(expected)
    for name in ("conv_state", "recurrent_state", "out"):
        agree(inputs[name], expected[name])


def test_jet_steps_follow_each_other() -> None:
    inputs = jet_inputs(JetSizes(2, 24, 16, 8, 4), 2, torch.float32)
    expected = copied(inputs)
    for _ in range(6):
        inputs["projected"] = normal(*inputs["projected"].shape)
        expected["projected"] = inputs["projected"]
        run_kernel(inputs)
        run_reference(expected)
        for name in ("conv_state", "recurrent_state", "out"):
            agree(inputs[name], expected[name])


@pytest.mark.parametrize("gate", [-60.0, -20.0, -5.0, 0.0, 5.0, 25.0, 80.0])
def test_gates_hold_at_extremes(gate: float) -> None:
    sizes = JetSizes(2, 16, 16, 8, 4)
    inputs = jet_inputs(sizes, 1, torch.float32)
    inputs["projected"][:, -2 * sizes.num_heads :] = gate
    expected = copied(inputs)
    run_kernel(inputs)
    run_reference(expected)
    for name in ("recurrent_state", "out"):
        agree(inputs[name], expected[name])


def test_jet_step_refuses_other_sizes() -> None:
    inputs = jet_inputs(JetSizes(2, 16, 16, 8, 4), 1, torch.float32)
    inputs["sizes"] = JetSizes(2, 16, 16, 8, 3)
    with pytest.raises(ValueError, match="should be"):
        run_kernel(inputs)


@torch.inference_mode()
def test_the_kernels_together_are_a_layer_of_the_network() -> None:
    model = small_model(layer_types=["jet"] * 2, num_hidden_layers=2).to(DEVICE)
    layer, jet = model.model.layers[1], model.config.jet
    block, generator = layer.self_attn, layer.self_attn.dynamic_conv1d.kernel_generator
    sizes = JetSizes(jet.num_heads, jet.head_dim, jet.head_v_dim, jet.generator_dim, jet.conv_size)
    parts = [block.q_proj, block.k_proj, generator.w1, block.v_proj, block.g_proj, block.a_proj, block.b_proj]
    merged = torch.cat([part.weight for part in parts])
    gate_up = torch.cat([layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight])
    eps, rows, slots = model.config.rms_norm_eps, 3, torch.tensor([2, 0, 3], dtype=torch.int32, device=DEVICE)
    conv_state = torch.zeros(4, jet.value_dim, jet.conv_size, device=DEVICE)
    recurrent_state = torch.zeros(4, jet.num_heads, jet.head_dim, jet.head_v_dim, device=DEVICE)
    cache = HybridCache(model.config)
    wide = GemvConfig(32, 64, 4)  # few programs: the interpreter's time goes by their number
    for _ in range(6):
        x = normal(rows, model.config.hidden_size)
        expected, _ = layer(x[:, None], None, None, past_key_values=cache)
        projected, o = empty(rows, merged.shape[0]), empty(rows, jet.value_dim)
        between = empty(rows, model.config.intermediate_size)
        active, shares = (
            jet_kernels.num_activated(sizes),
            jet_kernels.num_partials(sizes, generator.w2.weight),
        )
        partial_squares = empty(rows, jet.num_heads, shares)
        kernels.norm_linear(
            x, layer.input_layernorm.weight, eps, merged, None, projected, num_activated=active, config=wide
        )
        jet_kernels.jet_step(
            projected,
            generator.w2.weight,
            generator.w2.bias,
            block.A_log,
            block.dt_bias,
            slots,
            conv_state,
            recurrent_state,
            block.o_norm.weight,
            o,
            partial_squares,
            sizes,
        )
        kernels.heads_linear_add(o, partial_squares, jet.norm_eps, block.o_proj.weight, x)
        kernels.norm_swiglu(x, layer.post_attention_layernorm.weight, eps, gate_up, between, config=wide)
        kernels.linear_add(between, layer.mlp.down_proj.weight, x, config=wide)
        torch.testing.assert_close(x, expected[:, 0], rtol=1e-4, atol=1e-4)
    assert torch.equal(recurrent_state[1], torch.zeros_like(recurrent_state[1]))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("c", [48, 33, 1500, 2100])
def test_embed_quantized(c: int, scheme: str) -> None:
    table, token = coded(19, c, scheme), torch.tensor([18, 0, 7], device=DEVICE)
    position, turn = torch.zeros(3, device=DEVICE, dtype=torch.int32), torch.ones(2, device=DEVICE)
    x = empty(3, c)
    kernels.embed(token, table, position, turn, x, empty(3, 4), empty(3, 4))
    assert torch.equal(x, table.float()[token])


@pytest.mark.parametrize(("rows", "c", "head_dim"), [(1, 48, 8), (3, 33, 6), (2, 1500, 128)])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_embed(rows: int, c: int, head_dim: int, dtype: torch.dtype) -> None:
    table = normal(19, c, dtype=dtype)
    token = torch.randint(19, (rows,), device=DEVICE)
    position = torch.tensor([262_143, 0, 1151][:rows], device=DEVICE, dtype=torch.int32)
    config = JetNemotronConfig(hidden_size=head_dim * 2, num_attention_heads=2, num_key_value_heads=2)
    exponents = torch.arange(0, head_dim, 2, device=DEVICE, dtype=torch.float32) / head_dim
    inv_freq = config.rope_theta**-exponents
    x, cos, sin = empty(rows, c), empty(rows, head_dim), empty(rows, head_dim)
    kernels.embed(token, table, position, inv_freq, x, cos, sin)
    assert torch.equal(x, table[token].float())
    for got, expected in zip(
        (cos, sin), rotary_angles(config, position[:, None], torch.float32), strict=True
    ):
        agree(got, expected[:, 0])
    also = [empty(*part.shape) for part in (x, cos, sin)]
    reference.embed_reference(token, table, position, inv_freq, *also)
    for got, expected in zip((x, cos, sin), also, strict=True):
        agree(got, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("ahead", [1, 8, 1000, 2**20 + 8])  # numbers of 2 bytes
def test_weights_fetched_ahead_change_no_result(ahead: int) -> None:
    from jet.ops.backends import has_dependent_launch

    if not has_dependent_launch(torch.device(DEVICE)):
        pytest.skip("no dependent launches on this card")
    n, c, dtype = 300, 384, torch.bfloat16
    following = normal(ahead, dtype=dtype)
    more = [{"pdl": False}, {"pdl": True}, {"pdl": True, "prefetch": following}]
    norm, weight = (normal(c, dtype=dtype), EPS), weights(n, c, dtype)
    x, partial_squares, wide = normal(1, c), normal(1, 6, 4).abs(), weights(2 * n, c, dtype)
    start = normal(1, n)

    def run(options: dict[str, Any]) -> list[Tensor]:
        out, hidden, added, gated = empty(1, n), empty(1, n), start.clone(), start.clone()
        kernels.norm_linear(x, *norm, weight, None, out, **options)
        kernels.norm_swiglu(x, *norm, wide, hidden, **options)
        kernels.linear_add(x, weight, added, **options)
        kernels.heads_linear_add(x, partial_squares, EPS, weight, gated, **options)
        return [out, hidden, added, gated]

    plain, *others = map(run, more)
    for other in others:
        assert all(map(torch.equal, plain, other))
