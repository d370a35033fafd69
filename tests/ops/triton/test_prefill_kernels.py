"""Compare the prefill kernels with their definitions in plain torch."""

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

from jet.ops import prefill_backends as twin
from jet.ops.chunk_meta import Segment, make_chunk_meta, place_segments
from jet.ops.gpu_target import GpuTarget, assume_target
from jet.ops.reference import JetSizes
from jet.ops.triton import prefill_attention, prefill_delta_rule, prefill_elementwise

pytestmark = pytest.mark.thorough

# The interpreter multiplies the bits of bfloat16 matrices; a GPU's float32 products are of ten bits.
TYPES = [torch.float32] if DEVICE == "cpu" else [torch.float16, torch.bfloat16]
SLOTS, SLOT = 3, 1
DELTA = [
    (JetSizes(1, 12, 18, 7, 4), 5, 5),
    (JetSizes(2, 12, 18, 24, 4), 70, 67),
    (JetSizes(1, 96, 70, 8, 4), 65, 65),
    (JetSizes(1, 64, 16, 5, 3), 150, 129),
]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(DEVICE)


def unwritten(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full(shape, torch.nan, dtype=dtype, device=DEVICE)


def chunk_meta(start: int, count: int, tokens: int = 320) -> Tensor:
    return make_chunk_meta([Segment(SLOT, start, count, 0)], tokens, DEVICE)


def agree(ours: Tensor, theirs: Tensor) -> None:
    """Compare up to a few roundings of the dtype."""
    if ours.dtype == torch.float32 and DEVICE == "cpu":
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-4, atol=1e-4)
    else:
        distance = (ours.double() - theirs.double()).norm() / theirs.double().norm()
        assert distance < {torch.bfloat16: 8e-3, torch.float16: 2e-3}.get(ours.dtype, 8e-3), distance


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_norms_and_activations(dtype: torch.dtype) -> None:
    for tokens, size in ((1, 5), (7, 48), (3, 1030)):
        x, weight = normal(tokens, size).to(dtype), normal(size).to(dtype)
        for ours, theirs, given, columns in (
            (prefill_elementwise.norm, twin.norm_reference, (x, weight, 1e-5), size),
            (prefill_elementwise.swiglu, twin.swiglu_reference, (torch.cat([x, x.flip(0)], 1),), size),
            (prefill_elementwise.activate, twin.activate_reference, (torch.cat([x, x], 1)[:, :size],), size),
        ):
            outs = [unwritten(tokens, columns, dtype=dtype) for _ in range(2)]
            ours(*given, outs[0])
            theirs(*given, outs[1])
            agree(*outs)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("tokens", "heads", "size"), [(1, 1, 5), (9, 3, 18), (5, 2, 256)])
def test_gated_norm(tokens: int, heads: int, size: int, dtype: torch.dtype) -> None:
    o, gate = normal(tokens, heads * size).to(dtype), normal(tokens, heads * size + 3, seed=1).to(dtype)
    weight, outs = normal(size).to(dtype), [unwritten(tokens, heads * size, dtype=dtype) for _ in range(2)]
    prefill_elementwise.gated_norm(o, gate[:, 2:-1], weight, 1e-5, outs[0])
    twin.gated_norm_reference(o, gate[:, 2:-1], weight, 1e-5, outs[1])
    agree(*outs)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    ("tokens", "count", "channels", "width"), [(2, 2, 5, 4), (9, 7, 300, 4), (20, 17, 9, 3), (3, 1, 4, 5)]
)
def test_convolution(tokens: int, count: int, channels: int, width: int, dtype: torch.dtype) -> None:
    wide = normal(tokens, channels + 4).to(dtype)
    values, kernels = wide[:, 3:-1], normal(width, tokens, channels).to(dtype)
    values[count:] = kernels[:, count:] = torch.nan  # padding
    bias = normal(width, channels).to(dtype)
    state = normal(SLOTS, channels, width).to(dtype)
    outs = [unwritten(tokens, channels, dtype=dtype) for _ in range(2)]
    prefill_elementwise.convolve(values, kernels, bias, chunk_meta(0, count), state, outs[0])
    twin.convolve_reference(values, kernels, bias, chunk_meta(0, count), state, outs[1])
    agree(outs[0][:count], outs[1][:count])


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_convolution_of_packed_sequences(dtype: torch.dtype) -> None:
    segments = place_segments([(2, 7, 2), (0, 0, 66), (1, 3, 5)])
    tokens, channels, width = 200, 20, 4
    values, kernels = (
        unwritten(tokens, channels, dtype=dtype),
        unwritten(width, tokens, channels, dtype=dtype),
    )
    for segment in segments:
        rows = slice(segment.offset, segment.offset + segment.size)
        values[rows] = normal(segment.size, channels).to(dtype)
        kernels[:, rows] = normal(width, segment.size, channels).to(dtype)
    given = values, kernels, normal(width, channels).to(dtype), make_chunk_meta(segments, tokens, DEVICE)
    state, outs = normal(SLOTS, channels, width).to(dtype), [torch.zeros_like(values) for _ in range(2)]
    prefill_elementwise.convolve(*given, state, outs[0])
    twin.convolve_reference(*given, state, outs[1])
    agree(*outs)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_delta_rule_of_packed_sequences(dtype: torch.dtype) -> None:
    """Check that each sequence starts from its own state, and that gaps between them stay unchanged."""
    sizes, tokens = JetSizes(2, 12, 18, 5, 4), 260
    segments = place_segments([(2, 7, 3), (0, 0, 70), (1, 3, 64)])
    projected = unwritten(tokens, sum(sizes.split_sizes), dtype=dtype)
    values = unwritten(tokens, sizes.num_heads * sizes.head_v_dim, dtype=dtype)
    for segment in segments:
        rows = slice(segment.offset, segment.offset + segment.size)
        projected[rows] = normal(segment.size, projected.shape[1]).to(dtype)
        values[rows] = normal(segment.size, values.shape[1], seed=1).to(dtype)
    decays = normal(sizes.num_heads, seed=2), normal(sizes.num_heads, seed=3)
    given = (
        normal(SLOTS, sizes.num_heads * sizes.head_v_dim, sizes.conv_size).to(dtype),
        normal(SLOTS, sizes.num_heads, sizes.head_k_dim, sizes.head_v_dim),
    )
    scratch = prefill_delta_rule.DeltaRuleScratch.make(tokens, sizes, dtype, torch.device(DEVICE))
    for tensor in vars(scratch).values():
        tensor.fill_(torch.nan)
    meta, results = make_chunk_meta(segments, tokens, DEVICE), []
    for read, more in ((prefill_delta_rule.chunk_delta, (scratch,)), (twin.chunk_delta_reference, ())):
        states, out = tuple(state.clone() for state in given), torch.zeros_like(values)
        read(projected, values, decays, meta, states, out, sizes, *more)
        results.append((out, *states))
    for ours, theirs in zip(*results, strict=True):
        agree(ours, theirs)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("sizes", "tokens", "count"), DELTA, ids=str)
def test_delta_rule(sizes: JetSizes, tokens: int, count: int, dtype: torch.dtype) -> None:
    projected = normal(tokens, sum(sizes.split_sizes)).to(dtype)
    values = normal(tokens, sizes.num_heads * sizes.head_v_dim, seed=1).to(dtype)
    projected[count:] = values[count:] = torch.nan  # padding
    decays = normal(sizes.num_heads, seed=2), normal(sizes.num_heads, seed=3)
    given = (
        normal(SLOTS, sizes.num_heads * sizes.head_v_dim, sizes.conv_size).to(dtype),
        normal(SLOTS, sizes.num_heads, sizes.head_k_dim, sizes.head_v_dim),
    )
    scratch = prefill_delta_rule.DeltaRuleScratch.make(tokens, sizes, dtype, torch.device(DEVICE))
    for tensor in vars(scratch).values():
        tensor.fill_(torch.nan)
    results = []
    for read, more in ((prefill_delta_rule.chunk_delta, (scratch,)), (twin.chunk_delta_reference, ())):
        states = tuple(state.clone() for state in given)
        out = unwritten(tokens, sizes.num_heads * sizes.head_v_dim, dtype=dtype)
        read(projected, values, decays, chunk_meta(3, count), states, out, sizes, *more)
        results.append((out[:count], *states))
    for ours, theirs in zip(*results, strict=True):
        agree(ours, theirs)
    assert torch.equal(results[0][1], results[1][1])  # the convolution's inputs are copied


def test_delta_rule_on_keys_that_are_all_alike() -> None:
    """Test the worst-conditioned system: every correction depends on all before it, without decay."""
    sizes = JetSizes(1, 16, 16, 4, 4)
    projected = torch.zeros(128, sum(sizes.split_sizes), device=DEVICE, dtype=TYPES[0])
    projected[:, :32] = 1.0
    projected[:, -2], projected[:, -1] = -20.0, 20.0  # no decay, full strength
    values = normal(128, 16).to(TYPES[0])
    decays = torch.zeros(1, device=DEVICE), torch.zeros(1, device=DEVICE)
    scratch = prefill_delta_rule.DeltaRuleScratch.make(128, sizes, TYPES[0], torch.device(DEVICE))
    results = []
    for read, more in ((prefill_delta_rule.chunk_delta, (scratch,)), (twin.chunk_delta_reference, ())):
        states = normal(SLOTS, 16, 4).to(TYPES[0]), normal(SLOTS, 1, 16, 16)
        out = unwritten(128, 16, dtype=TYPES[0])
        read(projected, values, decays, chunk_meta(0, 128), states, out, sizes, *more)
        results.append((out, states[1]))
    for ours, theirs in zip(*results, strict=True):
        agree(ours, theirs)


ATTENTION = [(0, 3, 3), (0, 40, 33), (5, 9, 9), (250, 70, 70), (300, 5, 1)]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("kind", ["pages", "window"])
@pytest.mark.parametrize(("start", "tokens", "count"), ATTENTION)
def test_attention(start: int, tokens: int, count: int, kind: str, dtype: torch.dtype) -> None:
    heads, kv_heads, dim, page, window = 4, 2, 12, 64, 20
    projected = normal(tokens, (heads + 2 * kv_heads) * dim).to(dtype)
    projected[count:] = torch.nan
    frequencies = 10000.0 ** -(torch.arange(0, dim, 2, device=DEVICE) / dim)
    table = torch.zeros(SLOTS, 6, dtype=torch.int32, device=DEVICE)
    table[SLOT] = torch.tensor([5, 2, 4, 1, 3, 6])
    results = []
    for module in (prefill_attention, twin):
        name = "attend_" + kind + ("_reference" if module is twin else "")
        out, queries = (
            unwritten(tokens, heads * dim, dtype=dtype),
            unwritten(tokens, heads * dim, dtype=dtype),
        )
        given = projected, frequencies, chunk_meta(start, count)
        if kind == "pages":
            pages = unwritten(7, 2, kv_heads, page, dim, dtype=dtype)
            for token in range(start):
                cell = normal(2, kv_heads, dim, seed=token).to(dtype)
                pages[table[SLOT, token // page], :, :, token % page] = cell
            memory = (pages,)
            getattr(module, name)(*given, table, pages, queries, out)
        else:
            rings = tuple(unwritten(SLOTS, kv_heads, window, dim, dtype=dtype) for _ in range(2))
            for token in range(max(0, start - window), start):
                for part, ring in enumerate(rings):
                    ring[SLOT, :, token % window] = normal(kv_heads, dim, seed=2 * token + part).to(dtype)
            rows = prefill_attention.window_rows(window, 100)
            window_buffer = unwritten(2, kv_heads, rows, dim, dtype=dtype)
            memory = rings
            getattr(module, name)(*given, *rings, window_buffer, queries, out)
        results.append((out[:count], *(kept.nan_to_num(7.0) for kept in memory)))
    for ours, theirs in zip(*results, strict=True):
        agree(ours, theirs)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("kind", ["pages", "window"])
def test_attention_of_packed_sequences(kind: str, dtype: torch.dtype) -> None:
    heads, kv_heads, dim, page, window, tokens = 4, 2, 12, 64, 20, 200
    segments = place_segments([(2, 60, 9), (0, 0, 65), (1, 23, 2)])
    projected = unwritten(tokens, (heads + 2 * kv_heads) * dim, dtype=dtype)
    for segment in segments:
        rows = slice(segment.offset, segment.offset + segment.size)
        projected[rows] = normal(segment.size, projected.shape[1]).to(dtype)
    frequencies = 10000.0 ** -(torch.arange(0, dim, 2, device=DEVICE) / dim)
    table = torch.tensor([[5, 2], [3, 6], [1, 4]], dtype=torch.int32, device=DEVICE)
    given, results = (projected, frequencies, make_chunk_meta(segments, tokens, DEVICE)), []
    for module in (prefill_attention, twin):
        attend = getattr(module, "attend_" + kind + ("_reference" if module is twin else ""))
        out = torch.zeros(tokens, heads * dim, dtype=dtype, device=DEVICE)
        queries = torch.full_like(out, torch.nan)
        if kind == "pages":
            memory: tuple[Tensor, ...] = (normal(7, 2, kv_heads, page, dim).to(dtype),)
            attend(*given, table, *memory, queries, out)
        else:
            memory = tuple(normal(SLOTS, kv_heads, window, dim, seed=seed).to(dtype) for seed in (0, 1))
            buffer = unwritten(2, kv_heads, prefill_attention.window_rows(window, tokens), dim, dtype=dtype)
            attend(*given, *memory, buffer, queries, out)
        results.append((out, *memory))
    for ours, theirs in zip(*results, strict=True):
        agree(ours, theirs)


@pytest.mark.parametrize(
    ("major", "shared", "key", "stages"),
    [
        (8, 166_912, 96, 3),  # A100
        (8, 101_376, 96, 2),  # RTX 3060 to 4090
        (9, 232_448, 96, 3),  # H100, H200
        (9, 232_448, 128, 3),
        (12, 101_376, 128, 2),  # RTX 50 and RTX Pro 6000
        (12, 101_376, 64, 3),
        (7, 65_536, 96, 1),
    ],
)
def test_a_pipeline_is_as_long_as_shared_memory_allows(
    major: int, shared: int, key: int, stages: int
) -> None:
    with assume_target(GpuTarget(10 * major, 132, shared)):
        assert prefill_delta_rule.pipeline_stages(key, 2, torch.device("meta")) == stages
