"""Compare the decode step's CPU kernels with their torch twins: any sizes, weights and numbers of rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("numba")

from jet.modeling.cache import HybridCache
from jet.ops import attention, reference
from jet.ops.numba import jet_block_step as cpu_jet_step
from jet.ops.numba import kernels
from jet.ops.numba import matvec as cpu
from jet.ops.numba import paged_attention as cpu_attention
from jet.ops.numba.bound_operation import array
from jet.ops.quantization import GROUP_SIZE, SCHEMES, QuantizedTensor, quantize
from jet.ops.reference import JetSizes
from tests.networks import small_model
from tests.ops.jet_sizes import JET_SIZES

TYPES = [torch.float32, torch.bfloat16, torch.float16]
ROWS = [1, 2, 3]
EPS = 1e-5

# What is left to compile when the cache on disk is cold takes seconds.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape).to(dtype)


def weights(n: int, c: int, dtype: torch.dtype) -> Tensor:
    return normal(n, c).mul(c**-0.5).to(dtype)


def empty(*shape: int) -> Tensor:
    return torch.full(shape, float("nan"))


def agree(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def copied(inputs: dict[str, Tensor | JetSizes]) -> dict[str, Tensor | JetSizes]:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in inputs.items()}


# --- numbers ---------------------------------------------------------------------------------------------


def elementwise(function: Callable[[float], float], values: np.ndarray) -> np.ndarray:
    return np.array([function(value) for value in values], values.dtype)


def test_exp_is_close_wherever_float32_is_normal_and_held_beyond() -> None:
    x = np.linspace(-87, 88, 20_011, dtype=np.float32)
    exact = np.exp(x.astype(np.float64))
    assert np.max(np.abs(elementwise(kernels.exp, x) / exact - 1)) < 2e-7
    beyond = elementwise(kernels.exp, np.array([-1e4, -np.inf, 1e4, np.inf], np.float32))
    assert (beyond[:2] < 2e-38).all()
    assert (beyond[2:] > 1e38).all()
    assert math.isnan(kernels.exp(np.float32(np.nan)))
    assert kernels.exp(np.float32(0)) == 1


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_stored_number_is_read_and_written_as_torch_does(dtype: torch.dtype) -> None:
    bits = torch.arange(-(2**15), 2**15).to(torch.int16)
    numbers = bits.view(dtype) if dtype != torch.float32 else normal(2**16)
    x = torch.empty(1, len(numbers))
    one, turn = torch.zeros(1, dtype=torch.int32), torch.empty(1, 2)
    cpu.embed(one, numbers[None], one, torch.ones(1), x, turn, turn.clone())
    torch.testing.assert_close(x[0], numbers.float(), rtol=0, atol=0, equal_nan=True)

    near = torch.cat([x[0], x[0] * 1.0001, x[0] * 0.99951172, normal(2**14) * 1e-5, normal(2**14) * 1e5])
    halfway = (x[0, 2:] + x[0, 1:-1]) / 2  # an even number of them, as of every head
    near = torch.cat([near, halfway])
    zeros, slot = torch.zeros(1, len(near), dtype=dtype), torch.zeros(1, dtype=torch.int32)
    keys, values = zeros.view(1, 1, 1, -1).clone(), zeros.view(1, 1, 1, -1)
    projected = torch.cat([torch.zeros(2 * len(near)), near])[None]
    turns = torch.zeros(1, len(near)), torch.zeros(1, len(near))
    cpu_attention.attend_window(projected, *turns, slot, slot, keys, values, empty(1, len(near)))
    assert not keys.any()
    torch.testing.assert_close(values.flatten(), near.to(dtype), rtol=0, atol=0, equal_nan=True)


# --- products --------------------------------------------------------------------------------------------

# Rows and columns: odd, shorter than a vector, a multiple of it, the shapes of a real network.
SHAPES = [(3, 7), (10, 33), (16, 128), (21, 384), (9, 1025)]
CASES = [(SHAPES[i % 5], TYPES[i % 3], ROWS[i // 2 % 3]) for i in range(15)]


@pytest.mark.parametrize(("shape", "dtype", "rows"), CASES, ids=str)
class TestProducts:
    @pytest.mark.parametrize("biased", [False, True], ids=["plain", "biased"])
    def test_norm_linear(self, shape, dtype, rows, biased) -> None:
        n, c = shape
        bias = normal(n, dtype=dtype) if biased else None
        given = (normal(rows, c), normal(c, dtype=dtype), EPS, weights(n, c, dtype), bias)
        out, expected = empty(rows, n), empty(rows, n)
        cpu.norm_linear(*given, out)
        reference.norm_linear_reference(*given, expected)
        agree(out, expected)

    def test_norm_swiglu(self, shape, dtype, rows) -> None:
        n, c = shape
        given = (normal(rows, c), normal(c, dtype=dtype), EPS, weights(2 * n, c, dtype))
        out, expected = empty(rows, n), empty(rows, n)
        cpu.norm_swiglu(*given, out)
        reference.norm_swiglu_reference(*given, expected)
        agree(out, expected)

    def test_linear_add(self, shape, dtype, rows) -> None:
        n, c = shape
        given = (normal(rows, c), weights(n, c, dtype))
        x = normal(rows, n)
        expected = x.clone()
        cpu.linear_add(*given, x)
        reference.linear_add_reference(*given, expected)
        agree(x, expected)


# Rows in fours as well; columns odd, with halves that end within a group, and in whole groups.
CODED = [
    ((10, 33), 1),
    ((21, 384), 5),
    ((5, 90), 2),
    ((9, 1025), 4),
    ((3, 7), 1),
    ((4, 256), 2),
    ((4, 128), 3),
]


def coded(n: int, c: int, scheme: str) -> QuantizedTensor:
    weight = weights(n, c, torch.float32)
    return quantize(lambda begin, end: weight[begin:end], (n, c), scheme, torch.float32, weight.device)


def test_groups_are_as_large_as_they_are_made() -> None:
    assert kernels.GROUP_SIZE == GROUP_SIZE


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("shape", "rows"), CODED, ids=str)
def test_quantized_products(shape: tuple[int, int], rows: int, scheme: str) -> None:
    n, c = shape
    x, scale, weight, gate_up = normal(rows, c), normal(c), coded(n, c, scheme), coded(2 * n, c, scheme)
    out, expected = empty(rows, n), empty(rows, n)
    for given in ((weight, normal(n)), (weight, None)):
        cpu.norm_linear(x, scale, EPS, *given, out)
        reference.norm_linear_reference(x, scale, EPS, *given, expected)
        agree(out, expected)
    cpu.norm_swiglu(x, scale, EPS, gate_up, out)
    reference.norm_swiglu_reference(x, scale, EPS, gate_up, expected)
    agree(out, expected)
    cpu.linear_add(x, weight, out)
    reference.linear_add_reference(x, weight, expected)
    agree(out, expected)
    token = torch.arange(rows) % n
    table, turn, place = empty(rows, c), torch.ones(2), torch.zeros(rows, dtype=torch.int32)
    cpu.embed(token, weight, place, turn, table, empty(rows, 4), empty(rows, 4))
    assert torch.equal(table, weight.float()[token])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("heads", [(12, 64), (3, 20)], ids=str)
def test_gated_norm_linear_add_quantized(heads: tuple[int, int], scheme: str) -> None:
    c, n, rows = heads[0] * heads[1], 11, 5
    given = (normal(rows, c), normal(rows, c), normal(heads[1]), EPS, coded(n, c, scheme))
    x = normal(rows, n)
    expected = x.clone()
    cpu.gated_norm_linear_add(*given, x)
    reference.gated_norm_linear_add_reference(*given, expected)
    agree(x, expected)


HEADS = [(1, 8), (3, 20), (12, 64), (5, 33), (6, 128), (7, 16)]
GATED = [(HEADS[i % 6], TYPES[i % 3], ROWS[i // 2 % 3]) for i in range(12)]


@pytest.mark.parametrize(("shape", "dtype", "rows"), GATED, ids=str)
def test_gated_norm_linear_add(shape, dtype, rows) -> None:
    size = shape[1]
    n, c = 11, shape[0] * size
    gate = normal(rows, c + 9)[:, 4 : 4 + c]
    given = (normal(rows, c), gate, normal(size, dtype=dtype), EPS, weights(n, c, dtype))
    x = normal(rows, n)
    expected = x.clone()
    cpu.gated_norm_linear_add(*given, x)
    reference.gated_norm_linear_add_reference(*given, expected)
    agree(x, expected)


def test_a_float32_product_is_as_exact_as_float32_gets() -> None:
    n, c = 8, 1536
    x, weight = normal(1, c), weights(n, c, torch.float32)
    out, h = empty(1, n), torch.zeros(1, n)
    cpu.norm_linear(x, torch.ones(c), EPS, weight, None, out)
    cpu.linear_add(x, weight, h)
    exact = x.double() @ weight.double().T
    torch.testing.assert_close(h.double(), exact, rtol=0, atol=1e-6)
    exact = exact * torch.rsqrt(x.double().square().mean() + EPS)
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_what_is_not_finite_is_seen_in_the_output(dtype: torch.dtype, bad: float) -> None:
    x, ones, weight = normal(1, 70), torch.ones(70, dtype=dtype), weights(5, 70, dtype)
    out = empty(1, 5)
    weight[3, 41] = bad
    cpu.norm_linear(x, ones, EPS, weight, None, out)
    assert out.isfinite().tolist() == [[True, True, True, False, True]]
    x[0, 13] = bad
    cpu.norm_linear(x, ones, EPS, weight[:3], None, out[:, :3])
    assert not out[:, :3].isfinite().any()
    between = torch.zeros(1, 2)
    cpu.norm_swiglu(x, ones, EPS, weight[:4], between)
    assert not between.isfinite().any()


def test_bound_calls_see_what_their_tensors_hold_by_then() -> None:
    x, weight, out = normal(1, 33), weights(5, 33, torch.bfloat16), empty(1, 5)
    norm_weight = normal(33)
    bound = cpu.norm_linear.bind(x, norm_weight, EPS, weight, None, out)
    assert out.isnan().all(), "nothing is computed yet"
    for _ in range(2):
        x.normal_()
        bound()
        expected = empty(1, 5)
        reference.norm_linear_reference(x, norm_weight, EPS, weight, None, expected)
        agree(out, expected)


def test_kernels_compile_where_they_cannot_be_kept() -> None:
    namespace: dict[str, Callable[[int], int]] = {}
    exec("def double(x): return x + x", namespace)  # no file, so no place for its cache
    assert kernels.kernel(namespace["double"])(21) == 42


def test_operations_are_named_and_described() -> None:
    assert cpu.norm_linear.__name__ == "norm_linear"
    assert "attend_pages_reference" in str(cpu_attention.attend_pages.__doc__)


def test_operations_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="fit each other"):
        cpu.linear_add(normal(1, 8), normal(4, 9), normal(1, 4))
    with pytest.raises(ValueError, match="contiguous"):
        cpu.linear_add(normal(1, 8), normal(8, 4).T, normal(1, 4))
    with pytest.raises(ValueError, match="heads of 3"):
        cpu.gated_norm_linear_add(normal(1, 8), normal(1, 8), normal(3), EPS, normal(4, 8), normal(1, 4))
    with pytest.raises(ValueError, match="on the CPU"):
        array(torch.empty(2, device="meta"))


@pytest.mark.parametrize(("rows", "c", "head_dim"), [(1, 48, 8), (3, 33, 6), (2, 1500, 128)])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
def test_embed(rows: int, c: int, head_dim: int, dtype: torch.dtype, index: torch.dtype) -> None:
    table = normal(19, c, dtype=dtype)
    token = torch.randint(19, (rows,), dtype=index)
    position = torch.tensor([262_143, 0, 1151][:rows], dtype=index)
    inv_freq = 1e6 ** -(torch.arange(0, head_dim, 2) / head_dim)
    outs = [empty(rows, size) for size in (c, head_dim, head_dim)]
    expected = [out.clone() for out in outs]
    cpu.embed(token, table, position, inv_freq, *outs)
    reference.embed_reference(token, table, position, inv_freq, *expected)
    assert torch.equal(outs[0], expected[0])
    for got, wanted in zip(outs[1:], expected[1:], strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=2e-7)


# --- JetBlock --------------------------------------------------------------------------------------------


def jet_inputs(sizes: JetSizes, rows: int, dtype: torch.dtype) -> dict[str, Tensor | JetSizes]:
    channels, places = sizes.num_heads * sizes.head_v_dim, rows + 2
    return {
        "projected": normal(rows, sum(sizes.split_sizes)),
        "kernels_weight": weights(channels * sizes.conv_size, sizes.generator_dim, dtype),
        "kernels_bias": normal(channels * sizes.conv_size, dtype=dtype),
        "log_decay_rate": normal(sizes.num_heads),
        "dt_bias": normal(sizes.num_heads),
        "slots": torch.randperm(places)[:rows].to(torch.int32),
        "conv_state": normal(places, channels, sizes.conv_size, dtype=dtype),
        "recurrent_state": normal(places, sizes.num_heads, sizes.head_k_dim, sizes.head_v_dim),
        "out": empty(rows, channels),
        "sizes": sizes,
    }


def compare_jet_step(inputs: dict[str, Tensor | JetSizes]) -> None:
    expected = copied(inputs)
    cpu_jet_step.jet_step(**inputs)
    reference.jet_step_reference(**expected)
    assert torch.equal(inputs["conv_state"], expected["conv_state"])
    agree(inputs["recurrent_state"], expected["recurrent_state"])
    agree(inputs["out"], expected["out"])


@pytest.mark.parametrize(
    ("sizes", "dtype", "rows"),
    [(JET_SIZES[i % 7], TYPES[i % 3], ROWS[i // 2 % 3]) for i in range(21)],
    ids=str,
)
def test_jet_step(sizes: JetSizes, dtype: torch.dtype, rows: int) -> None:
    compare_jet_step(jet_inputs(sizes, rows, dtype))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("generator", [5, 33, 128])
def test_jet_step_quantized(generator: int, scheme: str) -> None:
    inputs = jet_inputs(JetSizes(2, 24, 16, generator, 4), 2, torch.float32)
    inputs["kernels_weight"] = coded(2 * 16 * 4, generator, scheme)
    compare_jet_step(inputs)


def test_jet_steps_follow_each_other() -> None:
    inputs = jet_inputs(JetSizes(2, 24, 16, 8, 4), 2, torch.bfloat16)
    for _ in range(6):
        inputs["projected"].normal_()
        compare_jet_step(inputs)


@pytest.mark.parametrize("gate", [-60.0, -20.0, -5.0, 0.0, 5.0, 25.0, 80.0, 1000.0, -1000.0])
def test_gates_hold_at_extremes(gate: float) -> None:
    sizes = JetSizes(2, 16, 16, 8, 4)
    inputs = jet_inputs(sizes, 1, torch.float32)
    inputs["projected"][:, -2 * sizes.num_heads :] = gate
    compare_jet_step(inputs)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_jet_step_shows_what_is_not_finite(bad: float) -> None:
    sizes = JetSizes(2, 16, 16, 8, 4)
    for part in (0, 1, 2, 3, 5):
        inputs = jet_inputs(sizes, 1, torch.float32)
        inputs["projected"].split(sizes.split_sizes, dim=1)[part][:, 0] = -bad if part == 5 else bad
        expected = copied(inputs)
        cpu_jet_step.jet_step(**inputs)
        reference.jet_step_reference(**expected)
        assert torch.equal(inputs["out"].isfinite(), expected["out"].isfinite())


def test_jet_step_refuses_other_sizes() -> None:
    inputs = jet_inputs(JetSizes(2, 16, 16, 8, 4), 1, torch.float32)
    inputs["sizes"] = JetSizes(2, 16, 16, 8, 3)
    with pytest.raises(ValueError, match="should be"):
        cpu_jet_step.jet_step(**inputs)


@torch.inference_mode()
def test_bound_operations_together_are_a_layer_of_the_network() -> None:
    model = small_model(layer_types=["jet"] * 2, num_hidden_layers=2)
    layer, jet, eps = model.model.layers[1], model.config.jet, model.config.rms_norm_eps
    block, generator = layer.self_attn, layer.self_attn.dynamic_conv1d.kernel_generator
    sizes = JetSizes(jet.num_heads, jet.head_dim, jet.head_v_dim, jet.generator_dim, jet.conv_size)
    parts = [block.q_proj, block.k_proj, generator.w1, block.v_proj, block.g_proj, block.a_proj, block.b_proj]
    merged = torch.cat([part.weight for part in parts])
    gate_up = torch.cat([layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight])
    rows, slots = 3, torch.tensor([2, 0, 3], dtype=torch.int32)
    states = (
        torch.zeros(4, jet.value_dim, jet.conv_size),
        torch.zeros(4, sizes.num_heads, sizes.head_k_dim, sizes.head_v_dim),
    )
    x, projected = empty(rows, model.config.hidden_size), empty(rows, merged.shape[0])
    o, between = empty(rows, jet.value_dim), empty(rows, model.config.intermediate_size)
    generated = (generator.w2.weight, generator.w2.bias, block.A_log, block.dt_bias)
    gated = (o, sizes.gate(projected), block.o_norm.weight, jet.norm_eps, block.o_proj.weight)
    step = [
        cpu.norm_linear.bind(x, layer.input_layernorm.weight, eps, merged, None, projected),
        cpu_jet_step.jet_step.bind(projected, *generated, slots, *states, o, sizes),
        cpu.gated_norm_linear_add.bind(*gated, x),
        cpu.norm_swiglu.bind(x, layer.post_attention_layernorm.weight, eps, gate_up, between),
        cpu.linear_add.bind(between, layer.mlp.down_proj.weight, x),
    ]
    cache = HybridCache(model.config)
    for _ in range(6):
        x.normal_()
        expected, _ = layer(x[:, None], None, None, past_key_values=cache)
        for call in step:
            call()
        torch.testing.assert_close(x, expected[:, 0], rtol=1e-4, atol=1e-4)
    assert not states[1][1].any(), "the null slot"


# --- attention -------------------------------------------------------------------------------------------

SLOTS = 7
# query heads, key-value heads, head size
ATTENTION = [(6, 1, 16), (2, 2, 8), (7, 1, 10), (12, 2, 128), (2, 1, 96), (6, 2, 64), (18, 1, 32)]


class Step:
    """Arguments of a call of attention; each row has a slot of its own, and unwritten memory is NaN."""

    def __init__(self, shape: tuple[int, int, int], positions: list[int], dtype: torch.dtype) -> None:
        self.heads, self.kv_heads, self.dim = shape
        self.dtype, self.batch = dtype, len(positions)
        self.position = torch.tensor(positions, dtype=torch.int32)
        self.slots = torch.randperm(SLOTS)[: self.batch].to(torch.int32)
        self.next_token()

    def next_token(self) -> None:
        self.projected = normal(self.batch, (self.heads + 2 * self.kv_heads) * self.dim) * 2
        turns = self.position[:, None] * 1e4 ** -(torch.arange(self.dim // 2) * 2 / self.dim)
        self.cos, self.sin = torch.cat([turns, turns], 1).cos(), torch.cat([turns, turns], 1).sin()
        self.out = empty(self.batch, self.heads * self.dim)

    def pool(self, page: int) -> tuple[Tensor, Tensor]:
        per_slot = int(self.position.max()) // page + 1
        pages = empty(SLOTS * per_slot, 2, self.kv_heads, page, self.dim).to(self.dtype)
        table = torch.randperm(len(pages)).to(torch.int32).view(SLOTS, per_slot)
        for slot, length in zip(self.slots.tolist(), self.position.tolist(), strict=True):
            past = normal(2, self.kv_heads, length, self.dim)
            attention.write_pages(pages, table[slot], 0, past[0], past[1])
        return table, pages

    def rings(self, window: int) -> tuple[Tensor, Tensor]:
        rings = [empty(SLOTS, self.kv_heads, window, self.dim).to(self.dtype) for _ in range(2)]
        for slot, length in zip(self.slots.tolist(), self.position.tolist(), strict=True):
            for ring in rings:
                attention.write_window(ring[slot], 0, normal(self.kv_heads, length, self.dim))
        return rings[0], rings[1]

    def compare_pages(self, memory: tuple[Tensor, Tensor]) -> None:
        self._compare(cpu_attention.attend_pages, attention.attend_pages_reference, memory)

    def compare_window(self, memory: tuple[Tensor, Tensor]) -> None:
        self._compare(cpu_attention.attend_window, attention.attend_window_reference, memory)

    def _compare(
        self, fast: Callable[..., None], reference: Callable[..., None], memory: tuple[Tensor, Tensor]
    ) -> None:
        """Compare outputs, and memory afterwards, including parts that must stay unchanged."""
        given = (self.projected, self.cos, self.sin, self.position, self.slots)
        expected, expected_memory = self.out.clone(), [part.clone() for part in memory]
        reference(*given, *expected_memory, expected)
        fast(*given, *memory, self.out)
        agree(self.out, expected)
        for ours, theirs in zip(memory, expected_memory, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6, equal_nan=True)


@pytest.mark.parametrize("shape", ATTENTION, ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_pages_and_windows(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    step = Step(shape, [37, 0, 96], dtype)
    step.compare_pages(step.pool(32))
    step.compare_window(step.rings(37))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("size", [1, 4, 5, 64])
def test_lengths_around_every_edge(size: int, rows: int) -> None:
    for first in (size - 1, size, 2 * size - 1, 3 * size + 1):
        step = Step((6, 2, 8), [first, 0, 1][:rows], torch.bfloat16)
        step.compare_pages(step.pool(size))
        step.compare_window(step.rings(size))


def test_token_after_token_every_step_sees_those_before_it() -> None:
    step = Step((4, 2, 8), [0, 0], torch.float32)
    table = torch.arange(2 * SLOTS, dtype=torch.int32).view(SLOTS, 2)
    pool, rings = (table, empty(2 * SLOTS, 2, 2, 8, 8)), step.rings(5)
    for _ in range(16):
        step.next_token()
        step.compare_pages(pool)
        step.compare_window(rings)
        step.position += 1


def test_scores_so_large_that_one_token_takes_all() -> None:
    step = Step((6, 2, 16), [50, 7], torch.float32)
    step.projected[:, : 6 * 16] *= 32  # the queries
    step.compare_pages(step.pool(16))


def test_attention_shows_what_is_not_finite() -> None:
    step = Step((6, 2, 16), [50, 7], torch.bfloat16)
    table, pages = step.pool(16)
    pages[table[step.slots[0], 1], 0, 1, 3, 2] = math.nan  # a key of the first row's second head
    given = (step.projected, step.cos, step.sin, step.position, step.slots)
    cpu_attention.attend_pages(*given, table, pages, step.out)
    finite = step.out.unflatten(1, (2, -1)).isfinite()
    assert finite.all(2).tolist() == [[True, False], [True, True]]


def test_attention_refuses_other_sizes() -> None:
    step = Step((6, 2, 16), [5], torch.float32)
    keys, values = step.rings(8)
    given = (step.position, step.slots, keys, values)
    with pytest.raises(ValueError, match="do not fit"):
        cpu_attention.attend_window(step.projected[:, :-1], step.cos, step.sin, *given, step.out)
    with pytest.raises(ValueError, match="rotations"):
        cpu_attention.attend_window(step.projected, step.cos[:, :-1], step.sin, *given, step.out)
