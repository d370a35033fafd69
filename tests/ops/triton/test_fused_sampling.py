"""Compare sampling on the device with `jet.ops.sampling`: tokens kept, tokens drawn, and outputs."""

from __future__ import annotations

import math
import os
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton")

import triton
import triton.language as tl

from jet.ops.decode_batch import DecodeBatch, SamplerFlags
from jet.ops.sampling import candidates, penalize_repetition, uniform
from jet.ops.triton import fused_sampling as kernels
from jet.ops.triton.fused_sampling import SamplerScratch
from tests.ops.test_sampling import p_value

pytestmark = pytest.mark.thorough

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter takes a tenth of a second for a row.
MANY, DRAWS = (40 if torch.cuda.is_available() else 1), 12_000
NEVER_DRAWN = -30.0  # that far below the likeliest
ROUNDING = 2e-6  # of a sum of float32 exponentials

Setting = dict[str, float]
FILTERS: list[Setting] = [
    {},
    {"temperature": 0.01},
    {"temperature": 5.0},
    {"top_k": 1},
    {"top_k": 2, "temperature": 3.0},
    {"top_k": 40},
    {"top_k": 6, "top_p": 0.7},
    {"top_p": 0.01},
    {"top_p": 0.5, "temperature": 0.3},
    {"top_p": 0.95, "temperature": 0.8},
    {"top_p": 0.999, "temperature": 5.0},
    {"min_p": 1.0},
    {"min_p": 0.05, "temperature": 2.0},
    {"min_p": 0.01, "top_p": 0.9},
    {"min_p": 0.3, "top_p": 0.99, "top_k": 40},
    {"min_p": 0.2, "top_p": 0.8, "top_k": 60, "temperature": 2.0},
    {"min_p": 1e-4, "top_k": 30, "temperature": 0.5},
    {"temperature": 0.8, "top_p": 0.95, "min_p": 0.05},
    {"temperature": 1.3, "top_p": 0.6, "top_k": 100_000},
]


class Batch:
    """A batch of rows with one setting each; memory that must not matter is filled with odd values."""

    def __init__(
        self, logits: Tensor, settings: list[Setting], seeds: list[int] | None = None, steps: int = 0
    ) -> None:
        self.size, self.vocabulary = logits.shape
        self.logits = logits.to(DEVICE, copy=True)
        self.rows = DecodeBatch.make(self.size, DEVICE)
        self.rows.active.fill_(1)
        self.rows.token.fill_(-5)
        self.rows.step.copy_(torch.arange(self.size) + steps)
        self.rows.seed.copy_(torch.tensor(seeds or [2**40 + 3] * self.size))
        for row, setting in enumerate(settings):
            for name, value in setting.items():
                getattr(self.rows, name)[row] = value
        self.seen = torch.zeros(self.size + 2, self.vocabulary, dtype=torch.uint8, device=DEVICE)
        self.rows.slot.copy_(torch.arange(self.size).flip(0) + 1)
        self.scratch = SamplerScratch.make(self.size, self.vocabulary, DEVICE)
        for field in fields(self.scratch):
            scrap = getattr(self.scratch, field.name)
            scrap.fill_(math.nan if scrap.is_floating_point() else -7)

    def sample(self, plan: SamplerFlags | None = None) -> list[int]:
        kernels.sample(self.logits, self.rows, self.seen, self.scratch, plan or SamplerFlags())
        return self.rows.token.tolist()

    def greedy(self, penalize: bool) -> list[int]:
        kernels.greedy(self.logits, self.rows, self.seen, self.scratch, penalize=penalize)
        return self.rows.token.tolist()

    def setting(self, row: int) -> dict[str, Any]:
        """Return a setting as the kernels read it, in float32."""
        names = ("temperature", "top_k", "top_p", "min_p")
        return {name: getattr(self.rows, name)[row].item() for name in names}

    def scaled(self, row: int) -> Tensor:
        """Return the logits divided by the temperature, relative to the largest, `[V]`."""
        logits = self.logits[row].cpu()
        return (logits - logits.max()) / max(
            self.rows.temperature[row].item(), torch.finfo(torch.float32).tiny
        )

    def kept(self, row: int) -> Tensor:
        """Return the tokens that the kernels keep, `[V]` bool."""
        scaled = self.scaled(row)
        key = scaled.view(torch.int32) & 0x7FFFFFFF
        edge, ties = self.scratch.edge[row].item(), self.scratch.ties[row].item()
        on_edge = key == edge
        return ((key < edge) | (on_edge & (on_edge.cumsum(0) <= ties))) & (scaled > NEVER_DRAWN)

    def expected(self, row: int) -> Tensor:
        """Return the tokens that `candidates` keeps, `[V]` bool.

        Of equal tokens at the edge, the first ones are kept, as many as `candidates` keeps.
        """
        logits, scaled = self.logits[row].cpu(), self.scaled(row)
        ids, weights = candidates((logits - logits.max())[None], **self.setting(row))
        ids = ids[0, weights[0] > 0]
        edge = scaled[ids].min()
        on_edge = scaled == edge
        allowed = int((scaled[ids] == edge).sum())
        kept = (scaled > edge) | (on_edge & (on_edge.cumsum(0) <= allowed))
        assert int(kept.sum()) == len(ids)
        return kept & (scaled > NEVER_DRAWN)

    def reference(self, row: int, step: int) -> tuple[int, float]:
        """Return the token that the definition draws, and the random number's distance from another token."""
        scaled = self.scaled(row)
        order = (
            ((scaled.view(torch.int32) & 0x7FFFFFFF) >= self.scratch.low[row].item())
            .sort(stable=True)
            .indices
        )
        weights = torch.where(self.kept(row), scaled.double().exp(), 0)[order]
        cumulative = weights.cumsum(0) / weights.sum()
        chance = uniform(int(self.rows.seed[row]), step)
        index = torch.searchsorted(cumulative, torch.tensor([chance]).double(), right=True)
        index = int(index.clamp(max=int(weights.nonzero().max())))
        return int(order[index]), float((cumulative - chance).abs().min())


def random_logits(kind: str, batch: int, vocabulary: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + vocabulary)
    logits = torch.randn(batch, vocabulary, generator=generator)
    if kind == "flat":
        return logits * 0.01 + 40
    if kind == "peaked":
        return logits * 6
    if kind == "ties":
        return (logits * 2).to(torch.bfloat16).float()
    if kind == "few values":
        return (logits * 1.5).round()
    assert kind == "equal"
    return torch.zeros(batch, vocabulary)


def near_the_edge_of_top_p(batch: Batch, row: int, token: int) -> bool:
    """Return True if rounding may decide whether top-p keeps a token."""
    setting, scaled = batch.setting(row), batch.scaled(row).double()
    within = scaled
    if 0 < setting["top_k"] < batch.vocabulary:
        within = scaled.masked_fill(scaled < scaled.topk(setting["top_k"]).values[-1], -math.inf)
    order = within.sort(descending=True, stable=True).indices
    weights = within[order].exp()
    likelier = (weights.cumsum(0) - weights)[(order == token).nonzero()[0, 0]] / weights.sum()
    return abs(float(likelier) - setting["top_p"]) < ROUNDING


# --- what is kept ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vocabulary", "kind"),
    [
        *((7, kind) for kind in ("flat", "few values", "equal")),
        *((100, kind) for kind in ("ties", "peaked", "few values")),
        *((1000, kind) for kind in ("flat", "peaked", "ties", "equal")),
    ],
)
def test_the_same_tokens_are_kept_and_the_expected_one_is_drawn(vocabulary: int, kind: str) -> None:
    check(Batch(random_logits(kind, MANY * len(FILTERS), vocabulary), FILTERS * MANY))


@pytest.mark.parametrize("kind", ["flat", "ties", "equal"])
def test_several_blocks_and_tiles(kind: str) -> None:
    check(Batch(random_logits(kind, MANY * len(FILTERS), 4097), FILTERS * MANY))


def test_the_vocabulary_of_the_model() -> None:
    logits = random_logits("peaked", 3, 151_936)
    check(Batch(logits, [{"min_p": 0.02}, {}, {"top_k": 40, "top_p": 0.9}]))


def test_random_settings() -> None:
    generator = torch.Generator().manual_seed(5)

    def between(low: float, high: float) -> float:
        return math.exp(math.log(low) + torch.rand((), generator=generator).item() * math.log(high / low))

    settings = [
        {
            "temperature": between(0.01, 5),
            "top_k": int(between(1, 400)) % 397,
            "top_p": min(1.0, between(0.01, 2)),
            "min_p": between(0.001, 1) - 0.001,
        }
        for _ in range(40 * MANY)
    ]
    check(Batch(random_logits("ties", len(settings), 300), settings))


def check(batch: Batch) -> None:
    """Check that the same tokens are kept and drawn as by the torch twin, unless rounding decides."""
    chosen = batch.sample()
    assert not batch.rows.status.any()
    rounded = 0
    for row, token in enumerate(chosen):
        kept, wanted = batch.kept(row), batch.expected(row)
        different = (kept != wanted).nonzero()[:, 0].tolist()
        assert all(near_the_edge_of_top_p(batch, row, other) for other in different), batch.setting(row)
        assert kept[token]
        index, distance = batch.reference(row, step=row)
        assert token == index or distance < ROUNDING
        rounded += bool(different) + (token != index)
    assert rounded <= 1 + batch.size / 100


def test_top_p_takes_as_many_of_equal_tokens_as_it_needs() -> None:
    batch = Batch(torch.zeros(4, 5000), [{"top_p": 0.5}, {"top_p": 0.25}, {"top_p": 1e-9}, {}])
    batch.sample()
    assert [int(batch.kept(row).sum()) for row in range(4)] == [2500, 1250, 1, 5000]
    assert bool(batch.kept(0)[:2500].all())


def test_all_equally_likely_tokens_pass_min_p_where_top_p_reaches_further() -> None:
    batch = Batch(torch.tensor([[1.0, 2.0, 2.0, 0.5, 0.5, -9.0]]), [{"top_k": 5, "top_p": 0.9, "min_p": 1.0}])
    check(batch)
    assert batch.kept(0).tolist() == [False, True, True, False, False, False]


def test_min_p_may_leave_fewer_than_top_k() -> None:
    setting = {"min_p": 0.9, "top_k": 4500}
    check(Batch(random_logits("peaked", 2, 5000), [setting, {**setting, "top_p": 0.9999}]))


def test_top_k_keeps_all_equal_tokens_at_its_edge() -> None:
    batch = Batch(torch.tensor([[1.0, 2.0, 3.0, 2.0, 2.0]]), [{"top_k": 2}])
    batch.sample()
    assert batch.kept(0).tolist() == [False, True, True, True, True]


@pytest.mark.parametrize("setting", [*FILTERS, {"top_k": 40, "top_p": 0.9}], ids=str)
def test_impossible_tokens_are_never_drawn(setting: Setting) -> None:
    logits = torch.full((2, 300), -math.inf)
    logits[0, 123] = -4.0
    logits[1, 290], logits[1, 3] = 2.0, -800.0
    assert Batch(logits, [setting] * 2).sample() == [123, 290]


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-38, 1e-45])
def test_a_tiny_temperature_is_almost_greedy(temperature: float) -> None:
    logits = random_logits("peaked", 2, 300)
    chosen = Batch(
        logits, [{"temperature": temperature}, {"temperature": temperature, "top_p": 0.9}]
    ).sample()
    assert chosen == logits.argmax(-1).tolist()


# --- what is drawn ---------------------------------------------------------------------------------------


@triton.jit
def random_bits(seeds, steps, words):
    at = tl.program_id(0)
    bits = kernels._random_bits(tl.load(seeds + at), tl.load(steps + at))
    tl.store(words + at, bits.to(tl.int64, bitcast=True))


def test_chance_is_that_of_the_twin() -> None:
    pairs = [
        (seed, step)
        for seed in (0, 1, 2**31, 2**32 - 1, 2**32, 2**40 + 9, 2**63 - 1)
        for step in (0, 1, 77, 2**31, 2**32, 2**33 + 5)
    ]
    seeds, steps = torch.tensor(pairs, device=DEVICE).T.contiguous()
    words = torch.empty_like(seeds)
    random_bits[(len(pairs),)](seeds, steps, words)
    assert [(word % 2**64) * 2.0**-64 for word in words.tolist()] == [uniform(*pair) for pair in pairs]


@pytest.mark.gpu
@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": 1.0},
        {"temperature": 1.5, "min_p": 0.1},
        {"temperature": 0.9, "top_p": 0.8},
        {"temperature": 2.0, "top_k": 5},
        {"temperature": 0.8, "top_k": 12, "top_p": 0.9, "min_p": 0.05},
    ],
    ids=str,
)
def test_draws_have_the_distribution_of_the_kept_tokens(setting: Setting) -> None:
    logits = random_logits("few values", 1, 40)
    batch = Batch(logits.expand(DRAWS, -1), [setting] * DRAWS)
    uses = SamplerFlags(uses_penalty=False, uses_top_k="top_k" in setting, uses_top_p="top_p" in setting)
    counts = torch.bincount(torch.tensor(batch.sample(uses)), minlength=40).double()
    weights = torch.where(batch.expected(0), batch.scaled(0).double().exp(), 0)
    assert counts[weights == 0].sum() == 0
    assert p_value(counts, weights / weights.sum()) > 1e-3


def test_what_is_drawn_does_not_depend_on_the_rest_of_the_batch() -> None:
    settings = [{"temperature": 0.8, "top_p": 0.95}, {"top_k": 30}, {"min_p": 0.02}, {}, {"temperature": 0.0}]
    logits = random_logits("ties", 5, 1500)
    together = Batch(logits, settings, seeds=[11, 12, 13, 14, 15]).sample()
    assert Batch(logits, settings, seeds=[11, 12, 13, 14, 15]).sample() == together
    for row, setting in enumerate(settings):
        alone = Batch(logits[row : row + 1], [setting], seeds=[11 + row], steps=row)
        assert (
            alone.sample(SamplerFlags(False, "top_k" in setting, "top_p" in setting))
            == together[row : row + 1]
        )


def test_filters_left_out_of_the_plan_are_off() -> None:
    logits = random_logits("flat", 1, 300)
    limited = Batch(logits, [{"top_k": 1, "top_p": 0.01, "repetition_penalty": 5.0}])
    limited.seen.fill_(1)
    assert limited.sample(SamplerFlags(False, False, False)) == Batch(logits, [{}]).sample()


# --- the bookkeeping ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [{}, {"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.3, "min_p": 0.5, "repetition_penalty": 1.7}],
)
def test_tokens_that_end_the_text_are_barred_until_their_step(setting: Setting) -> None:
    """Compare with a batch in which the logits of these tokens are -inf until their step."""
    vocabulary, ends, rows = 1500, [3, 1100], 6
    logits = random_logits("peaked", rows, vocabulary)
    logits[:, ends] = 40.0  # nothing else would ever be drawn
    min_tokens = Batch(logits, [setting] * rows)
    min_tokens.rows = replace(min_tokens.rows, stop_ids=torch.tensor(ends, device=DEVICE))
    min_tokens.rows.min_tokens.copy_(torch.tensor([0, 1, 3, 4, 4, 9]))  # the steps are 0 to 5
    other = logits.clone()
    load_before_wait = [row for row in range(rows) if row < min_tokens.rows.min_tokens[row]]
    other[torch.tensor(load_before_wait)[:, None], torch.tensor(ends)] = -math.inf
    twin = Batch(other, [setting] * rows)
    assert load_before_wait == [2, 3, 5]
    drawn = min_tokens.sample(SamplerFlags(uses_min_tokens=True))
    assert drawn == twin.sample()
    assert [row for row, token in enumerate(drawn) if token not in ends] == load_before_wait
    assert min_tokens.rows.step.tolist() == list(range(1, rows + 1))
    assert not min_tokens.rows.status.any()
    left_out = Batch(logits, [setting] * rows)
    left_out.rows.min_tokens.fill_(100)
    assert set(left_out.sample()) <= set(ends)


@pytest.mark.parametrize("call", ["greedy", "sample"])
def test_a_row_moves_on_and_leaves_its_slot_at_a_token_that_ends_the_text(call: str) -> None:
    logits = torch.full((3, 300), -5.0, device=DEVICE)
    logits[0, 7], logits[1, 200], logits[2, 299] = 9.0, 9.0, 9.0
    batch = Batch(logits, [{"temperature": 0.0}] * 3)
    batch.rows = DecodeBatch(
        **{**vars(batch.rows), "stop_ids": torch.tensor([5, 200], device=DEVICE), "null_slot": 77}
    )
    batch.rows.position.copy_(torch.tensor([4, 5, 6]))
    slots = batch.rows.slot.tolist()
    tokens = batch.greedy(penalize=False) if call == "greedy" else batch.sample()
    assert tokens == [7, 200, 299]
    assert batch.rows.position.tolist() == [5, 6, 7]
    assert batch.rows.slot.tolist() == [slots[0], 77, slots[2]]


# --- the likeliest ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocabulary", [7, 256, 4097])
@pytest.mark.parametrize("kind", ["peaked", "few values", "equal"])
def test_the_first_of_the_likeliest_is_taken(kind: str, vocabulary: int) -> None:
    logits = random_logits(kind, 3, vocabulary)
    wanted = [int((row == row.max()).nonzero()[0, 0]) for row in logits]
    assert Batch(logits, []).greedy(penalize=False) == wanted
    cold = {"temperature": 0.0, "top_k": 3, "top_p": 0.1, "min_p": 0.9}
    assert Batch(logits, [cold] * 3).sample() == wanted


@pytest.mark.parametrize("call", ["greedy", "sample"])
@pytest.mark.parametrize("repetition_penalty", [1.0, 1.05, 1.3, 5.0, 0.5])
def test_the_repetition_penalty_is_that_of_the_twin(repetition_penalty: float, call: str) -> None:
    batch = Batch(
        random_logits("peaked", 3, 700), [{"temperature": 0.0, "repetition_penalty": repetition_penalty}] * 3
    )
    batch.seen.copy_(torch.rand(batch.seen.shape, generator=torch.Generator().manual_seed(1)) < 0.3)
    seen = batch.seen[batch.rows.slot].bool().cpu()
    # On the processor: CUDA multiplies by the reciprocal of a number, the kernel divides.
    wanted = penalize_repetition(batch.logits.cpu(), seen, batch.rows.repetition_penalty[0].item())
    chosen = batch.greedy(penalize=True) if call == "greedy" else batch.sample()
    assert torch.equal(batch.logits.cpu(), wanted)
    assert chosen == wanted.argmax(-1).tolist()


# --- what is written -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("call", ["greedy", "sample"])
def test_a_step_is_written_down(call: str, dtype: torch.dtype) -> None:
    batch = Batch(random_logits("peaked", 3, 300), [{}, {"top_p": 0.9}, {"temperature": 0.0}])
    before = batch.rows.token.to(dtype)
    batch.rows = DecodeBatch(**{**vars(batch.rows), "token": before})
    chosen = batch.greedy(penalize=True) if call == "greedy" else batch.sample()
    assert batch.rows.step.tolist() == [1, 2, 3]
    assert batch.rows.status.tolist() == [0, 0, 0]
    assert int(batch.seen.sum()) == 3
    assert batch.seen[batch.rows.slot, batch.rows.token].tolist() == [1, 1, 1]
    assert all(0 <= token < 300 for token in chosen)


@pytest.mark.parametrize("call", ["greedy", "sample"])
def test_nothing_is_written_for_inactive_rows(call: str) -> None:
    batch = Batch(random_logits("peaked", 3, 300), [{"top_k": 5, "repetition_penalty": 2.0}] * 3)
    batch.logits[1] = math.nan
    batch.seen.fill_(1)
    batch.rows.active[1] = 0
    batch.rows.slot[1] = 10**6  # reading there would fail
    logits, rows = batch.logits.clone(), vars(batch.rows).copy()
    rows = {name: value.clone() for name, value in rows.items() if name not in ("stop_ids", "null_slot")}
    _ = batch.greedy(penalize=True) if call == "greedy" else batch.sample()
    assert torch.equal(batch.logits[1].isnan(), logits[1].isnan())
    for name, value in rows.items():
        assert torch.equal(value[1], getattr(batch.rows, name)[1]), name
    assert batch.rows.step.tolist() == [1, 1, 3]


@pytest.mark.parametrize("call", ["greedy", "sample"])
@pytest.mark.parametrize(
    "setting",
    [{}, {"top_k": 4, "top_p": 0.9, "min_p": 0.1}, {"temperature": 0.0}, {"repetition_penalty": 1.2}],
    ids=str,
)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_are_flagged(bad: float, setting: Setting, call: str) -> None:
    logits = random_logits("peaked", 3, 300)
    if bad == -math.inf:
        logits[1] = bad
    else:
        logits[1, 260] = bad
    batch = Batch(logits, [setting] * 3)
    chosen = batch.greedy(penalize=True) if call == "greedy" else batch.sample()
    assert batch.rows.status.tolist() == [0, 1, 0]
    assert batch.rows.step.tolist() == [1, 1, 3]
    assert chosen[1] == -5 and chosen[0] >= 0 and chosen[2] >= 0
    assert int(batch.seen.sum()) == 2


def test_rows_of_wider_logits_and_larger_scratch() -> None:
    logits = random_logits("peaked", 4, 300)
    settings: list[Setting] = [{}, {"top_k": 9}, {"top_p": 0.7}]
    wanted = Batch(logits[:3, :290], settings).sample()
    batch = Batch(logits[:3, :290], settings)
    batch.logits = logits.to(DEVICE)[:3, :290]
    batch.scratch = SamplerScratch.make(8, 290, DEVICE)
    assert batch.sample() == wanted


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="vocabulary"):
        SamplerScratch.make(1, 2**18 + 1, DEVICE)
    batch = Batch(random_logits("peaked", 2, 30), [])
    batch.scratch = SamplerScratch.make(1, 30, DEVICE)
    with pytest.raises(ValueError, match="does not fit"):
        batch.sample()
    batch.logits = batch.logits.double()
    with pytest.raises(ValueError, match="float32"):
        batch.greedy(penalize=False)
