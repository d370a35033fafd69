"""Compare XTC, mirostat and adaptive-p on the device with `jet.ops.sampler_chain`: tokens and states."""

from __future__ import annotations

import math
import os
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton")

from jet.api import SamplingParams
from jet.engine.chain import (
    Chain,
    SamplerStates,
    State,
    as_numbers,
    from_numbers,
    initial_state,
)
from jet.engine.row_samplers import row_samplers
from jet.ops.decode_batch import DecodeBatch, SamplerFlags
from jet.ops.sampler_chain import AdaptiveState
from jet.ops.sampling import uniform
from jet.ops.triton import fused_sampling as kernels
from jet.ops.triton.final_samplers import draw_final
from jet.ops.triton.fused_sampling import SamplerScratch
from jet.ops.triton.shape_logits import ShapeBuffers
from tests.ops.test_sampler_chain import DRAWN, rows, softmax
from tests.ops.test_sampling import p_value

pytestmark = pytest.mark.thorough

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter takes a few hundredths of a second for a row.
ROWS, DRAWS = (2000 if torch.cuda.is_available() else 40), 12_000
FLAGS = SamplerFlags(uses_final=True)
SEED, FIRST_STEP = 2**40 + 3, 100
NEAR = 2e-6  # the device computes logits and probabilities in float32: so near to an edge, either is right

KOBOLDAI = "top_n_sigma;top_k;typical_p;top_p;min_p;temperature;xtc"
NEUTRAL = SamplingParams(1.0, 1.0, 0, 0.0, 1.0)
XTC = replace(NEUTRAL, xtc_probability=1.0, xtc_threshold=0.1)
MIROSTAT = replace(NEUTRAL, mirostat=2, mirostat_tau=2.0, mirostat_eta=0.3)
ADAPTIVE = replace(NEUTRAL, adaptive_target=0.3, adaptive_decay=0.8, min_p=1e-6)
SETTINGS: dict[str, SamplingParams] = {
    "XTC": XTC,
    "XTC by half": replace(XTC, xtc_probability=0.5, xtc_threshold=0.02, temperature=0.8),
    "XTC after filters": replace(XTC, top_k=12, top_p=0.9, min_p=0.02),
    "XTC of everything": replace(XTC, xtc_threshold=1e-6),
    "mirostat": MIROSTAT,
    "mirostat ignores filters": replace(MIROSTAT, temperature=1.3, top_k=1, top_p=0.1, xtc_probability=1.0),
    "mirostat of little surprise": replace(MIROSTAT, mirostat_tau=0.01),
    "mirostat of none": replace(MIROSTAT, mirostat_tau=0),
    "adaptive": ADAPTIVE,
    "adaptive after filters": replace(ADAPTIVE, min_p=0.05, top_p=0.95, temperature=0.7),
    "adaptive of nothing": replace(ADAPTIVE, adaptive_target=0.0, adaptive_decay=0.0),
    "late temperature": replace(NEUTRAL, temperature=1.7, top_p=0.81, min_p=0.02, sampler_order=KOBOLDAI),
    "late and cold": replace(NEUTRAL, temperature=0.3, top_k=8, sampler_order=KOBOLDAI),
    "late and hot": replace(NEUTRAL, temperature=4.0, top_p=0.999, sampler_order=KOBOLDAI),
    "late, then XTC": replace(XTC, temperature=1.7, top_p=0.9, sampler_order=KOBOLDAI),
    "late, then adaptive": replace(ADAPTIVE, temperature=2.0, min_p=0.03, sampler_order="min_p;temperature"),
    "left out": replace(XTC, temperature=3.0, top_k=1, min_p=0.01, sampler_order="min_p;xtc"),
    "adaptive and XTC": replace(ADAPTIVE, xtc_probability=0.7, xtc_threshold=0.15, min_p=0.01),
}


class Batch:
    """Rows with one setting each, drawn on the device; scratch is filled with values that must not matter."""

    def __init__(
        self, logits: Tensor, samplings: list[SamplingParams], states: list[State], special: Tensor
    ) -> None:
        size, vocabulary = logits.shape
        self.logits, self.special = logits.to(DEVICE, copy=True), special
        self.samplings, self.states = samplings, states
        batch = self.rows = DecodeBatch.make(size, DEVICE)
        batch.active.fill_(1)
        batch.token.fill_(-5)
        batch.seed.fill_(SEED)
        batch.step.copy_(torch.arange(size) + FIRST_STEP)
        for row, (sampling, state) in enumerate(zip(samplings, states, strict=True)):
            one = row_samplers(sampling)
            assert one is not None
            batch.temperature[row] = one.temperature
            batch.top_k[row], batch.top_p[row], batch.min_p[row] = one.top_k, one.top_p, one.min_p
            batch.final_settings[row] = torch.tensor(one.final, dtype=torch.float64)
            batch.sampler_state[row] = torch.tensor(as_numbers(state), dtype=torch.float64)
        self.seen = torch.zeros(size + 1, vocabulary, dtype=torch.uint8, device=DEVICE)
        self.scratch = SamplerScratch.make(size, vocabulary, DEVICE)
        for field in fields(self.scratch):
            scrap = getattr(self.scratch, field.name)
            scrap.fill_(math.nan if scrap.is_floating_point() else -7)

    def draw(self, flags: SamplerFlags = FLAGS, shape: ShapeBuffers | None = None) -> list[int]:
        given = self.logits, self.rows, self.seen, self.scratch
        kernels.sample(*given, flags, shape=shape)
        draw_final(*given, self.special.to(DEVICE, torch.uint8), shape=shape)
        return self.rows.token.tolist()

    def state(self, row: int) -> State:
        return from_numbers(self.samplings[row], *self.rows.sampler_state[row].tolist())


def twin(
    row: Tensor, sampling: SamplingParams, special: Tensor, state: State, step: int, scale: float = 0.0
) -> tuple[int, State]:
    """Draw as the chain does; `scale` moves its edges and its random number by so much."""
    states: SamplerStates = {} if state is None else {step: state}
    if scale and isinstance(state, float):
        states[step] = state + scale
    chance, excludes = uniform(SEED, step), uniform(SEED, step, 1) < sampling.xtc_probability
    moved = replace(
        sampling,
        xtc_threshold=sampling.xtc_threshold * (1 + scale),
        top_p=min(1.0, sampling.top_p * (1 + scale)),
        min_p=min(1.0, sampling.min_p * (1 + scale)),
    )
    chain = Chain(moved, special, states)
    token = chain.draw(row.double(), min(max(chance + scale, 0.0), 1.0), step, excludes)
    return token, states.get(step + 1)


def check(batch: Batch) -> None:
    """Check that tokens and states are those of the chain, unless the row is near a tie."""
    given, before = batch.logits.cpu(), list(batch.states)
    drawn, near = batch.draw(), 0
    assert not batch.rows.status.any()
    assert batch.rows.step.tolist() == [FIRST_STEP + row + 1 for row in range(len(drawn))]
    assert torch.equal(batch.logits.cpu(), given), "log-probabilities are of the logits as they were"
    for row, token in enumerate(drawn):
        arguments = given[row], batch.samplings[row], batch.special, before[row], FIRST_STEP + row
        wanted, state = twin(*arguments)
        if token != wanted:
            others = [twin(*arguments, scale=scale) for scale in (-NEAR, NEAR, -NEAR / 9, NEAR / 9)]
            assert token in [other for other, _ in others], (row, token, wanted)
            near += 1
        elif state is not None:
            assert as_numbers(batch.state(row)) == pytest.approx(as_numbers(state), rel=1e-5, abs=1e-5)
        else:
            assert batch.rows.sampler_state[row].tolist() == list(as_numbers(before[row]))
    assert near <= 1 + len(drawn) // 50


def states_of(sampling: SamplingParams, count: int) -> list[State]:
    """Return states as they come after some tokens, the first as it is before any."""
    random = np.random.default_rng(4)
    later: list[State] = []
    for _ in range(count - 1):
        if sampling.mirostat:
            later.append(float(random.uniform(-1, 8)))
        elif sampling.adaptive_target >= 0:
            weight = float(random.uniform(1, 6))
            later.append(AdaptiveState(weight * float(random.uniform(0, 0.9)), weight))
        else:
            later.append(None)
    return [initial_state(sampling), *later]


def no_special(vocabulary: int) -> Tensor:
    return torch.zeros(vocabulary, dtype=torch.bool)


@pytest.mark.parametrize("name", SETTINGS)
def test_tokens_and_states_are_those_of_the_chain(name: str) -> None:
    given = torch.from_numpy(np.stack(list(rows(ROWS)))).float()
    states = states_of(SETTINGS[name], len(given))
    check(Batch(given, [SETTINGS[name]] * len(given), states, no_special(given.shape[1])))


def test_xtc_excludes_nothing_where_a_special_token_would_go() -> None:
    given = torch.from_numpy(np.stack(list(rows(24)))).float()
    special = torch.arange(given.shape[1]) % 5 == 0
    check(Batch(given, [XTC] * 24, [None] * 24, special))
    peaked = torch.tensor([[5.0, 4.9, 0.0], [4.9, 5.0, 0.0]])
    # The special token is excluded in the first row, and is the one that stays in the second.
    drawn = Batch(peaked, [replace(XTC, min_p=0.5)] * 2, [None] * 2, torch.tensor([True, False, False]))
    kept = [
        twin(peaked[row], drawn.samplings[row], drawn.special, None, FIRST_STEP + row)[0] for row in (0, 1)
    ]
    assert drawn.draw() == kept and kept[1] == 0


@pytest.mark.parametrize("vocabulary", [1, 1500, 5000])
@pytest.mark.parametrize("name", ["XTC after filters", "mirostat", "adaptive and XTC", "adaptive"])
def test_several_tiles(name: str, vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    given = torch.randn(4, vocabulary, generator=generator) * torch.tensor([[0.0], [0.5], [2.0], [6.0]])
    sampling = replace(SETTINGS[name], top_p=1.0, top_k=0)
    samplings = [sampling if name.startswith("adaptive") else replace(sampling, min_p=0.0)] * 4
    check(Batch(given, samplings, states_of(samplings[0], 4), no_special(vocabulary)))


def test_the_vocabulary_of_the_model() -> None:
    given = torch.randn(3, 151_936, generator=torch.Generator().manual_seed(1)) * 4
    samplings = [XTC, MIROSTAT, replace(ADAPTIVE, min_p=0.02)]
    check(Batch(given, samplings, [initial_state(one) for one in samplings], no_special(151_936)))


def test_a_varying_temperature_acts_before_mirostat() -> None:
    given = torch.from_numpy(np.stack(list(rows(16)))).float()
    sampling = replace(MIROSTAT, dynatemp_range=0.5)
    batch = Batch(given, [sampling] * 16, states_of(sampling, 16), no_special(given.shape[1]))
    shape = ShapeBuffers.make(16, given.shape[1], DEVICE)
    shape.write([(0.0, 1.0, 0.5, 1.0)] * 16)
    drawn = batch.draw(SamplerFlags(uses_shape=True, uses_final=True), shape)
    wanted = [
        twin(given[row], sampling, batch.special, batch.states[row], FIRST_STEP + row)[0] for row in range(16)
    ]
    assert sum(one != other for one, other in zip(drawn, wanted, strict=True)) <= 1


def test_other_rows_of_the_batch_are_drawn_as_without_such_rows() -> None:
    given = torch.from_numpy(np.stack(list(rows(6)))).float()
    plain = [replace(NEUTRAL, top_p=0.9), NEUTRAL, replace(NEUTRAL, temperature=0.0, xtc_probability=1.0)]
    samplings = [XTC, plain[0], MIROSTAT, plain[1], ADAPTIVE, plain[2]]
    states = [initial_state(one) for one in samplings]
    together = Batch(given, samplings, states, no_special(given.shape[1]))
    drawn = together.draw()
    for row, sampling in enumerate(samplings):
        alone = Batch(given[row : row + 1], [sampling], states[row : row + 1], no_special(given.shape[1]))
        alone.rows.step.fill_(FIRST_STEP + row)
        flags = FLAGS if row_samplers(sampling).uses_final else SamplerFlags()
        kernels.sample(alone.logits, alone.rows, alone.seen, alone.scratch, flags)
        if row_samplers(sampling).uses_final:
            special = alone.special.to(DEVICE, torch.uint8)
            draw_final(alone.logits, alone.rows, alone.seen, alone.scratch, special)
        assert alone.rows.token.tolist() == drawn[row : row + 1]
        assert torch.equal(alone.rows.sampler_state[0], together.rows.sampler_state[row])
    assert together.seen.sum(-1).tolist()[:6] == [1] * 6


def test_inactive_and_broken_rows_keep_their_states() -> None:
    given = torch.from_numpy(np.stack(list(rows(4)))).float()
    given[1, 5] = math.nan
    given[2] = -math.inf
    batch = Batch(given, [MIROSTAT] * 4, [3.0, 4.0, 5.0, 6.0], no_special(given.shape[1]))
    batch.rows.active[3] = 0
    batch.rows.slot[3] = 10**6  # reading there would fail
    drawn = batch.draw()
    assert batch.rows.status.tolist() == [0, 1, 1, 0]
    assert batch.rows.step.tolist() == [FIRST_STEP + 1, *[FIRST_STEP + row for row in (1, 2, 3)]]
    assert drawn[0] >= 0 and drawn[1:] == [-5] * 3
    assert batch.rows.sampler_state[1:, 0].tolist() == [4.0, 5.0, 6.0]
    assert int(batch.seen.sum()) == 1


def test_a_row_leaves_its_slot_at_a_token_that_ends_the_text() -> None:
    given = torch.full((2, 300), -9.0)
    given[0, 7], given[1, 200] = 20.0, 20.0
    batch = Batch(given, [XTC, MIROSTAT], [None, 3.0], no_special(300))
    batch.rows = replace(batch.rows, stop_ids=torch.tensor([5, 200], device=DEVICE), null_slot=77)
    assert batch.draw() == [7, 200]
    assert batch.rows.position.tolist() == [1, 1] and batch.rows.slot.tolist() == [0, 77]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["mirostat", "adaptive"])
def test_draws_have_the_defined_distribution(name: str) -> None:
    sampling, definition = DRAWN[name]
    row = np.random.default_rng(3).normal(0, 1.5, 40)
    given = torch.from_numpy(row).float().expand(DRAWS, -1)
    batch = Batch(given, [sampling] * DRAWS, [initial_state(sampling)] * DRAWS, no_special(40))
    counts = torch.bincount(torch.tensor(batch.draw()), minlength=40).double()
    wanted = torch.from_numpy(softmax(definition(row)))
    assert counts[wanted == 0].sum() == 0
    assert p_value(counts, wanted) > 1e-3
