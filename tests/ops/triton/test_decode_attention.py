"""Compare decode attention over pages and rings: kernels with their twins, twins with the layer."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton")

from jet.modeling.attention import rotate
from jet.ops import attention
from jet.ops.triton import decode_attention as kernels

pytestmark = pytest.mark.thorough

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TYPES = [torch.float32, torch.bfloat16, torch.float16]
SLOTS = 7
TOLERANCE = 2e-5

# query heads, key-value heads, head size
SHAPES = [(6, 1, 16), (2, 2, 8), (7, 1, 10), (12, 2, 128), (2, 1, 96), (2, 1, 256), (18, 1, 32)]


class Step:
    """Arguments of a call of attention, on the device; each row has a slot of its own.

    For memory in half precision, projections are multiples of a half and rotations of a quarter. New keys
    then need no rounding, so that rounding or a fused multiply-add cannot make two implementations differ.
    """

    def __init__(
        self, shape: tuple[int, int, int], positions: list[int], dtype: torch.dtype, seed: int = 0
    ) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.heads, self.kv_heads, self.dim = shape
        self.dtype, self.batch = dtype, len(positions)
        self.position = torch.tensor(positions, dtype=torch.int32, device=DEVICE)
        slots = torch.randperm(SLOTS, generator=self.generator)[: self.batch]
        self.slots = slots.to(DEVICE, torch.int32)
        self.next_token()
        self.out = torch.full((self.batch, self.heads * self.dim), torch.nan, device=DEVICE)

    def next_token(self) -> None:
        projected = self.normal(self.batch, (self.heads + 2 * self.kv_heads) * self.dim) * 2
        self.projected = self.on_grid(projected.clamp(-4, 4), 2)
        self.cos, self.sin = (self.on_grid(x, 4) for x in angles(self.position, self.dim))

    def on_grid(self, x: Tensor, parts: int) -> Tensor:
        return x if self.dtype == torch.float32 else (x * parts).round() / parts

    def normal(self, *size: int) -> Tensor:
        return torch.randn(*size, generator=self.generator).to(DEVICE)

    def unwritten(self, *size: int) -> Tensor:
        return torch.full(size, torch.nan, dtype=self.dtype, device=DEVICE)

    def pool(self, page: int) -> tuple[Tensor, Tensor]:
        """Return a page table and pages scattered over a pool; memory not yet written is NaN."""
        per_slot = int(self.position.max()) // page + 1
        pages = self.unwritten(SLOTS * per_slot, 2, self.kv_heads, page, self.dim)
        order = torch.randperm(len(pages), generator=self.generator)
        page_table = order.to(DEVICE, torch.int32).view(SLOTS, per_slot)
        for slot, length in zip(self.slots.tolist(), self.position.tolist(), strict=True):
            past = self.normal(2, self.kv_heads, length, self.dim)
            attention.write_pages(pages, page_table[slot], 0, past[0], past[1])
        return page_table, pages

    def rings(self, window: int) -> tuple[Tensor, Tensor]:
        """Return the rings of keys and of values; memory not yet written is NaN."""
        keys, values = (self.unwritten(SLOTS, self.kv_heads, window, self.dim) for _ in range(2))
        for slot, length in zip(self.slots.tolist(), self.position.tolist(), strict=True):
            for ring in (keys, values):
                attention.write_window(ring[slot], 0, self.normal(self.kv_heads, length, self.dim))
        return keys, values

    def scratch(self, splits: int) -> kernels.AttentionScratch:
        scratch = kernels.AttentionScratch.make(self.batch, self.heads, self.dim, splits, DEVICE)
        for part in (scratch.maximum, scratch.total, scratch.weighted):
            part.fill_(torch.nan)
        return scratch

    def compare_pages(self, memory: tuple[Tensor, Tensor], splits: int) -> None:
        self._compare(kernels.attend_pages, attention.attend_pages_reference, memory, splits)

    def compare_window(self, memory: tuple[Tensor, Tensor], splits: int) -> None:
        self._compare(kernels.attend_window, attention.attend_window_reference, memory, splits)

    def _compare(
        self,
        kernel: Callable[..., None],
        reference: Callable[..., None],
        memory: tuple[Tensor, Tensor],
        splits: int,
    ) -> None:
        """Compare outputs, and memory afterwards, including parts that must stay unchanged."""
        turned, row = (self.projected, self.cos, self.sin), (self.position, self.slots)
        expected, expected_memory = self.out.double(), [x.clone() for x in memory]
        reference(*(x.double() for x in turned), *row, *expected_memory, expected)
        kernel(*turned, *row, *memory, self.out, self.scratch(splits))
        torch.testing.assert_close(self.out.double(), expected, atol=TOLERANCE, rtol=TOLERANCE)
        for ours, theirs in zip(memory, expected_memory, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6, equal_nan=True)


def angles(positions: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    exponents = torch.arange(0, dim, 2, device=positions.device) / dim
    turns = (positions[..., None] * 10_000.0**-exponents).repeat_interleave(2, dim=-1)
    halves = torch.cat([turns[..., ::2], turns[..., 1::2]], dim=-1)
    return halves.cos(), halves.sin()


# --- kernels ---------------------------------------------------------------------------------------------


@pytest.fixture(params=[True, False], ids=["tensor cores", "products"])
def tensor_cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run the test with tensor cores and without; skip what the device does not have."""
    use: bool = request.param
    if use and DEVICE == "cuda" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("not taken on this device")
    monkeypatch.setattr(kernels, "_has_tensor_cores", lambda device: use)
    return use


@pytest.fixture(params=TYPES, ids=str)
def dtype(request: pytest.FixtureRequest, tensor_cores: bool) -> torch.dtype:
    kind: torch.dtype = request.param
    if tensor_cores and kind == torch.float32:
        pytest.skip("float32 is never given to tensor cores")
    if tensor_cores and kind == torch.bfloat16 and DEVICE == "cpu":
        pytest.skip("the interpreter multiplies the bits of bfloat16 matrices")
    return kind


def skip_what_others_show(shape: tuple[int, int, int], dtype: torch.dtype, tensor_cores: bool) -> None:
    """Skip combinations on a CPU, where one dtype for each shape is enough without tensor cores.

    Shapes decide tilings, and dtypes decide loads. With tensor cores, every shape runs in float16.
    """
    if DEVICE == "cpu" and not tensor_cores and SHAPES.index(shape) % 3 != TYPES.index(dtype):
        pytest.skip("another type has this shape")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pages(shape: tuple[int, int, int], dtype: torch.dtype, tensor_cores: bool) -> None:
    skip_what_others_show(shape, dtype, tensor_cores)
    step = Step(shape, [37, 0, 96], dtype)
    step.compare_pages(step.pool(32), splits=3)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_window(shape: tuple[int, int, int], dtype: torch.dtype, tensor_cores: bool) -> None:
    skip_what_others_show(shape, dtype, tensor_cores)
    step = Step(shape, [37, 20, 96], dtype)
    step.compare_window(step.rings(37), splits=3)


# Every two of page, splits and batch meet.
EDGES = [
    (page, splits, (1, 2, 3, 5)[(i + j) % 4])
    for i, page in enumerate((4, 16, 128))
    for j, splits in enumerate((1, 3, 5, 16))
]


@pytest.mark.parametrize(("page", "splits", "batch"), EDGES)
def test_lengths_around_every_edge(page: int, splits: int, batch: int) -> None:
    step = Step((6, 2, 8), [page - 1, 0, page, 3 * page + 1, 1][:batch], torch.bfloat16, seed=splits)
    step.compare_pages(step.pool(page), splits)


@pytest.mark.parametrize("splits", [1, 3, 16])
@pytest.mark.parametrize("window", [1, 2, 5, 64, 65, 129])
def test_windows_before_and_after_they_are_full(window: int, splits: int) -> None:
    positions = [window - 1, 0, window, 3 * window + 1, 2 * window - 1]
    step = Step((6, 2, 8), positions, torch.float32, seed=splits)
    step.compare_window(step.rings(window), splits)


def test_scores_so_large_that_one_token_takes_all(dtype: torch.dtype) -> None:
    step = Step((6, 2, 16), [50, 7], dtype)
    step.projected[:, : 6 * 16] *= 32  # the queries
    step.compare_pages(step.pool(16), splits=4)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16], ids=str)
def test_token_after_token_every_step_sees_those_before_it(kind: torch.dtype) -> None:
    step = Step((4, 2, 8), [0, 0], kind)
    page_table = torch.arange(2 * SLOTS, dtype=torch.int32, device=DEVICE).view(SLOTS, 2)
    pool, rings = (page_table, step.unwritten(2 * SLOTS, 2, 2, 8, 8)), step.rings(5)
    for _ in range(16):
        step.next_token()
        step.compare_pages(pool, splits=2)
        step.compare_window(rings, splits=2)
        step.position += 1


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_the_new_token_counts_as_the_memory_rounds_it(kind: torch.dtype) -> None:
    step = Step((4, 2, 8), [0, 0], kind)
    step.projected = step.normal(*step.projected.shape)
    keys, values = step.rings(5)
    given = (step.projected, step.cos, step.sin, step.position, step.slots)
    kernels.attend_window(*given, keys, values, step.out, step.scratch(2))
    kept = values[step.slots.long(), :, 0]
    assert torch.equal(step.out, kept.float().repeat_interleave(2, dim=1).flatten(1))
    if kind != torch.bfloat16 or DEVICE == "cuda":  # which the interpreter does not round but cuts off
        assert torch.equal(kept, step.projected.unflatten(1, (-1, 8))[:, -2:].to(kind))


def test_padding_rows_share_a_slot_and_leave_the_others_alone() -> None:
    step = Step((6, 2, 8), [9, 0, 0, 0], torch.float32)
    step.slots = torch.tensor([2, SLOTS - 1, SLOTS - 1, SLOTS - 1], dtype=torch.int32, device=DEVICE)
    page_table, pages = step.pool(16)
    before = pages.clone()
    given = (step.projected, step.cos, step.sin, step.position, step.slots)
    kernels.attend_pages(*given, page_table, pages, step.out, step.scratch(4))
    values = step.projected.unflatten(1, (-1, 8))[1:, -2:].repeat_interleave(3, dim=1)
    assert torch.equal(step.out[1:], values.flatten(1)), "alone, a token sees its own value"
    touched = (pages.nan_to_num(9) != before.nan_to_num(9)).flatten(1).any(1).nonzero().flatten()
    assert set(touched.tolist()) == {int(page_table[2, 0]), int(page_table[SLOTS - 1, 0])}


def test_rows_of_a_wider_tensor_and_scratch_for_more_rows() -> None:
    step = Step((6, 2, 8), [9, 30], torch.float32)
    page_table, pages = step.pool(16)
    expected, expected_pages = step.out.clone(), pages.clone()
    given = (step.cos, step.sin, step.position, step.slots, page_table)
    attention.attend_pages_reference(step.projected, *given, expected_pages, expected)
    wide, wide_out = F.pad(step.projected, (0, 5))[:, :-5], F.pad(step.out, (0, 3))[:, :-3]
    scratch = kernels.AttentionScratch.make(4, 6, 8, 3, DEVICE)
    kernels.attend_pages(wide, *given, pages, wide_out, scratch)
    torch.testing.assert_close(wide_out, expected, atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(pages, expected_pages, equal_nan=True)


def test_the_same_call_gives_the_same_bits() -> None:
    step = Step((6, 2, 16), [75, 40], torch.float16)
    page_table, pages = step.pool(16)
    given = (step.projected, step.cos, step.sin, step.position, step.slots, page_table, pages)
    outs = [torch.full_like(step.out, torch.nan) for _ in range(2)]
    for out in outs:
        kernels.attend_pages(*given, out, step.scratch(5))
    assert torch.equal(*outs)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_a_captured_graph_with_dependent_launches_follows_the_positions(kind: torch.dtype) -> None:
    pdl = torch.cuda.get_device_capability() >= (9, 0)
    step = Step((12, 2, 128), [60, 0, 250], kind)
    step.position += 10  # room in the table for the steps to come
    (page_table, pages), rings = step.pool(64), step.rings(100)
    scratch, window_out = step.scratch(16), torch.full_like(step.out, torch.nan)
    turned, row = (step.projected, step.cos, step.sin), (step.position, step.slots)
    saved = [x.clone() for x in (pages, *rings)]

    def both(pdl: bool) -> None:
        kernels.attend_pages(*turned, *row, page_table, pages, step.out, scratch, pdl)
        kernels.attend_window(*turned, *row, *rings, window_out, scratch, pdl)

    both(pdl)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        both(pdl)
    for memory, before in zip((pages, *rings), saved, strict=True):
        memory.copy_(before)
    for _ in range(5):
        graph.replay()
        outs = step.out.clone(), window_out.clone()
        both(pdl=False)  # writes the same key and value once more
        assert torch.equal(outs[0], step.out) and torch.equal(outs[1], window_out)
        step.position += 1


def test_many_splits_are_suggested_for_few_rows() -> None:
    one, many = (kernels.default_num_splits(batch, 2, DEVICE) for batch in (1, 128))
    assert 1 <= many <= one


# --- twins and helpers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, 1, 5, 12])
def test_steps_equal_the_layer_that_reads_everything_at_once(window: int | None) -> None:
    tokens, heads, kv_heads, dim = 12, 6, 2, 8
    step = Step((heads, kv_heads, dim), [0] * tokens, torch.float32)
    positions = torch.arange(tokens, dtype=torch.int32, device=DEVICE)
    cos, sin = angles(positions, dim)
    states = step.projected.unflatten(1, (-1, dim)).transpose(0, 1)[None]
    q, k, v = states.split([heads, kv_heads, kv_heads], dim=1)
    distance = positions[:, None] - positions[None, :]
    mask = (distance >= 0) & (distance < (window or tokens))
    q, k = (rotate(x, (cos[None], sin[None])) for x in (q, k))
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)[0].transpose(0, 1)

    out = torch.full((tokens, heads * dim), torch.nan, device=DEVICE)
    slots = torch.tensor([1], dtype=torch.int32, device=DEVICE)
    rings = torch.full((2, 2, kv_heads, window or 1, dim), torch.nan, device=DEVICE)
    page_table = torch.tensor([[0, 0, 0], [4, 1, 3]], device=DEVICE)
    pages = torch.full((5, 2, kv_heads, 4, dim), torch.nan, device=DEVICE)
    for t in range(tokens):
        given = [x[t : t + 1] for x in (step.projected, cos, sin, positions)]
        if window is None:
            attention.attend_pages_reference(*given, slots, page_table, pages, out[t : t + 1])
        else:
            attention.attend_window_reference(*given, slots, rings[0], rings[1], out[t : t + 1])
    torch.testing.assert_close(out, expected.flatten(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pieces", [(1,), (4,), (3, 1, 4), (7, 9), (2, 6, 1, 3)], ids=str)
def test_pages_return_what_was_written(pieces: tuple[int, ...]) -> None:
    pages = torch.full((9, 2, 3, 4, 6), torch.nan, dtype=torch.float64)
    table_row = torch.tensor([7, 0, 3, 5, 8], dtype=torch.int32)
    written = torch.randn(2, 3, sum(pieces), 6, dtype=torch.float64)
    start = 0
    for piece in written.split(pieces, dim=2):
        attention.write_pages(pages, table_row, start, piece[0], piece[1])
        start += piece.shape[2]
        keys, values = attention.gather_pages(pages, table_row, start)
        assert torch.equal(torch.stack([keys, values]), written[:, :, :start])
    assert pages.isfinite().sum() == written.numel()


@pytest.mark.parametrize("window", [1, 2, 5, 8])
@pytest.mark.parametrize("pieces", [(1,), (4,), (3, 1, 4), (17, 2), (2, 6, 1, 3)], ids=str)
def test_a_ring_returns_the_last_tokens_in_order(pieces: tuple[int, ...], window: int) -> None:
    ring = torch.full((3, window, 6), torch.nan, dtype=torch.float64)
    written = torch.randn(3, sum(pieces), 6, dtype=torch.float64)
    position = 0
    assert attention.gather_window(ring, position).shape == (3, 0, 6)
    for piece in written.split(pieces, dim=1):
        attention.write_window(ring, position, piece)
        position += piece.shape[1]
        kept = min(position, window - 1)
        assert torch.equal(attention.gather_window(ring, position), written[:, position - kept : position])


def test_nothing_is_gathered_from_an_empty_sequence() -> None:
    pages, table_row = torch.zeros(2, 2, 3, 4, 6), torch.zeros(2, dtype=torch.int32)
    assert all(part.shape == (3, 0, 6) for part in attention.gather_pages(pages, table_row, 0))


def test_states_take_the_type_of_the_memory() -> None:
    pages, ring = torch.zeros(1, 2, 3, 4, 6, dtype=torch.bfloat16), torch.zeros(3, 4, 6, dtype=torch.float16)
    states = torch.randn(3, 2, 6)
    attention.write_pages(pages, torch.zeros(1, dtype=torch.int32), 1, states, states)
    attention.write_window(ring, 3, states)
    assert torch.equal(pages[0, 1, :, 1:3], states.bfloat16())
    assert torch.equal(ring[:, [3, 0]], states.half())
