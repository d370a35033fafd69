"""Compare samplers with float64 definitions in numpy, written from papers and first implementations.

- top-nσ: Tang et al., "Top-nσ: Not All Logits Are You Need", arXiv 2411.07641, algorithm 1.
- typical: Meister et al., "Locally Typical Sampling", arXiv 2202.00666, equation 6.
- mirostat 2: Basu et al., arXiv 2007.14966, as llama.cpp's `llama_sampler_mirostat_v2` has it.
- dynamic temperature: kalomaze's, as llama.cpp's `llama_sampler_temp_ext` has it.
- adaptive-p: MrJackSpade, https://github.com/MrJackSpade/adaptive-p-docs, as llama.cpp has it.
- min-p: Nguyen et al., arXiv 2407.01082. Top-p: Holtzman et al., arXiv 1904.09751.
- XTC: its author in text-generation-webui, pull request 6335.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch

from jet.api import SAMPLERS, RequestError, SamplingParams
from jet.engine.chain import Chain, SamplerStates
from jet.ops import sampler_chain as chain
from jet.ops.sampler_chain import ORDER, AdaptiveState, ChainSettings, filter_row
from jet.ops.sampling import uniform
from tests.ops.test_sampling import p_value

Row = npt.NDArray[np.float64]
ROWS, VOCABULARY = 2000, 40
NONE_SPECIAL = torch.zeros(VOCABULARY, dtype=torch.bool)


def rows(count: int = ROWS) -> Iterator[Row]:
    """Yield rows of logits: random, tied, flat, with one candidate, half impossible, or with one dominant."""
    random = np.random.default_rng(0)
    for number in range(count):
        row = random.normal(0, random.choice([0.01, 1.0, 3.0, 8.0]), VOCABULARY)
        kind = number % 8
        if kind == 1:
            row = np.round(row)  # ties
        elif kind == 2:
            row[:] = row[0]  # flat
        elif kind == 3:
            row[np.arange(VOCABULARY) != number % VOCABULARY] = -np.inf  # one candidate
        elif kind == 4:
            row[random.random(VOCABULARY) < 0.5] = -np.inf
            row[number % VOCABULARY] = 1.0
        elif kind == 5:
            row[number % VOCABULARY] += 60  # all but one are filtered
        yield row


def softmax(row: Row) -> Row:
    weights = np.exp(row - row.max())
    return weights / weights.sum()


def keep(row: Row, kept: npt.NDArray[np.bool_]) -> Row:
    return np.where(kept, row, -np.inf)


def define_top_n_sigma(row: Row, n: float) -> Row:
    return keep(row, row >= row.max() - n * np.std(row[np.isfinite(row)]))


def define_typical(row: Row, mass: float) -> Row:
    p = softmax(row)
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.log(p)
        entropy = np.nansum(np.where(p > 0, p * surprise, 0))
    distance = np.abs(surprise - entropy)
    total, last = 0.0, 0.0
    for token in sorted(np.flatnonzero(p), key=lambda token: distance[token]):
        last = distance[token]
        total += p[token]
        if total >= mass:
            break
    return keep(row, distance <= last)


def define_dynamic_temperature(row: Row, temperature: float, spread: float, exponent: float) -> Row:
    p, count = softmax(row), int(np.isfinite(row).sum())
    if count <= 1:
        return row
    entropy = -sum(one * math.log(one) for one in p if one > 0)
    low, high = max(0.0, temperature - spread), temperature + spread
    return row / max(low + (high - low) * (entropy / math.log(count)) ** exponent, 1.2e-38)


def define_top_p(row: Row, mass: float) -> Row:
    p = softmax(row)
    order = sorted(range(len(row)), key=lambda token: (-row[token], token))
    kept, total = np.zeros(len(row), bool), 0.0
    for token in order:
        kept[token] = True
        total += p[token]
        if total >= mass:
            break
    return keep(row, kept)


def define_mirostat(row: Row, mu: float) -> Row:
    with np.errstate(divide="ignore"):
        surprise = -np.log2(softmax(row))
    kept = surprise <= mu
    if not kept.any():
        kept[np.argmax(row)] = True
    return keep(row, kept)


def define_adaptive(row: Row, target: float, weighted_sum: float, total_weight: float) -> Row:
    aim = min(1.0, max(0.0, 2 * target - weighted_sum / total_weight))
    found = np.full(len(row), -np.inf)
    for token, p in enumerate(softmax(row)):
        if np.isfinite(row[token]):
            distance = abs(p - aim) / 0.3
            found[token] = 5.0 - 10.0 * distance * distance / (1 + distance)
    return found


def define_xtc(row: Row, threshold: float) -> Row:
    p = softmax(row)
    above = [token for token in np.flatnonzero(p >= threshold) if np.isfinite(row[token])]
    order = sorted(above, key=lambda token: (-row[token], token))
    return keep(row, ~np.isin(np.arange(len(row)), order[:-1]))


STATE = AdaptiveState(4.0, 9.5)
CASES: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[Row], Row]]] = {
    "top-nσ 1": (lambda row: chain.top_n_sigma(row, 1.0), lambda row: define_top_n_sigma(row, 1.0)),
    "top-nσ 0.3": (lambda row: chain.top_n_sigma(row, 0.3), lambda row: define_top_n_sigma(row, 0.3)),
    "typical 0.9": (lambda row: chain.typical(row, 0.9), lambda row: define_typical(row, 0.9)),
    "typical 0.2": (lambda row: chain.typical(row, 0.2), lambda row: define_typical(row, 0.2)),
    "dynamic temperature": (
        lambda row: chain.heat(row, ChainSettings(1.0, 0.5, 1.5)),
        lambda row: define_dynamic_temperature(row, 1.0, 0.5, 1.5),
    ),
    "from 0 on": (
        lambda row: chain.heat(row, ChainSettings(0.5, 2.0)),
        lambda row: define_dynamic_temperature(row, 0.5, 2.0, 1.0),
    ),
    "top-k": (
        lambda row: chain.top_k(row, 7),
        lambda row: keep(row, row >= np.sort(row)[-7]),
    ),
    "top-p": (lambda row: chain.top_p(row, 0.8), lambda row: define_top_p(row, 0.8)),
    "min-p": (
        lambda row: chain.min_p(row, 0.1),
        lambda row: keep(row, row - row.max() >= math.log(0.1)),
    ),
    "XTC": (lambda row: chain.xtc(row, 0.1, None), lambda row: define_xtc(row, 0.1)),
    "mirostat 3": (lambda row: chain.mirostat(row, 3.0), lambda row: define_mirostat(row, 3.0)),
    "mirostat 0.01": (lambda row: chain.mirostat(row, 0.01), lambda row: define_mirostat(row, 0.01)),
    "mirostat -1": (lambda row: chain.mirostat(row, -1.0), lambda row: define_mirostat(row, -1.0)),
    "adaptive": (lambda row: chain.adapt(row, 0.4, STATE), lambda row: define_adaptive(row, 0.4, 4.0, 9.5)),
}


@pytest.mark.parametrize("name", CASES)
def test_each_sampler_equals_its_definition(name: str) -> None:
    ours, definition = CASES[name]
    for row in rows():
        got, wanted = ours(torch.from_numpy(row.copy())).numpy(), definition(row)
        assert np.array_equal(np.isfinite(got), np.isfinite(wanted)), row
        np.testing.assert_allclose(softmax(got), softmax(wanted), rtol=1e-9, atol=1e-12)


def test_off_changes_nothing_but_the_scale() -> None:
    for row in rows(80):
        kept = filter_row(torch.from_numpy(row), ChainSettings()).numpy()
        np.testing.assert_allclose(softmax(kept), softmax(row), atol=1e-12)


def test_samplers_act_in_the_order_that_is_named() -> None:
    row = torch.tensor([0.0, -1.0, -2.0, -3.0], dtype=torch.float64)
    hot = {"temperature": 4.0, "min_p": 0.3}
    assert filter_row(row, ChainSettings(**hot)).isfinite().tolist() == [True] * 4
    late = ChainSettings(**hot, order=("min_p", "temperature"))
    assert filter_row(row, late).isfinite().tolist() == [True, True, False, False]
    assert filter_row(row, ChainSettings(top_k=1, order=("temperature",))).isfinite().all()  # not named: off


def test_orders_are_checked() -> None:
    assert SAMPLERS == ORDER
    SamplingParams(sampler_order="min_p;temperature;top_k")
    for order in ("min_p;min_p", "minp", "top_k,top_p", ";"):
        with pytest.raises(RequestError, match="sampler_order"):
            SamplingParams(sampler_order=order)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_refused(bad: float) -> None:
    row = torch.zeros(VOCABULARY, dtype=torch.float64)
    row[3] = bad
    for sampling in (SamplingParams(top_n_sigma=1.0), SamplingParams(mirostat=2)):
        with pytest.raises(FloatingPointError, match="not a number"):
            Chain(sampling, NONE_SPECIAL).draw(row, 0.5, 0, False)


# --- draws -----------------------------------------------------------------------------------------------

NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
DRAWN: dict[str, tuple[SamplingParams, Callable[[Row], Row]]] = {
    "top-nσ": (
        SamplingParams(**{**NEUTRAL, "temperature": 2.0}, top_n_sigma=1.0),
        lambda row: define_top_n_sigma(row, 1.0) / 2,
    ),
    "typical": (SamplingParams(**NEUTRAL, typical_p=0.7), lambda row: define_typical(row, 0.7)),
    "dynamic temperature": (
        SamplingParams(**NEUTRAL, dynatemp_range=0.8),
        lambda row: define_dynamic_temperature(row, 1.0, 0.8, 1.0),
    ),
    "mirostat": (
        SamplingParams(**NEUTRAL, mirostat=2, mirostat_tau=1.5, top_k=1),
        lambda row: define_mirostat(row, 3.0),
    ),
    "adaptive": (
        SamplingParams(**{**NEUTRAL, "min_p": 0.05}, adaptive_target=0.3),
        lambda row: define_adaptive(keep(row, row - row.max() >= math.log(0.05)), 0.3, 3.0, 10.0),
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_draws_have_the_defined_distribution(name: str) -> None:
    sampling, definition = DRAWN[name]
    row = np.random.default_rng(3).normal(0, 1.5, VOCABULARY)
    counts = torch.zeros(VOCABULARY, dtype=torch.float64)
    for number in range(1500):  # every draw is the first of a request
        counts[Chain(sampling, NONE_SPECIAL).draw(torch.from_numpy(row), uniform(7, number), 0, False)] += 1
    wanted = torch.from_numpy(softmax(definition(row)))
    assert counts[wanted == 0].sum() == 0
    assert p_value(counts, wanted) > 1e-3


def test_mirostat_comes_near_the_surprise_that_is_asked_for() -> None:
    sampling = SamplingParams(**NEUTRAL, mirostat=2, mirostat_tau=2.0, mirostat_eta=0.2)
    states: SamplerStates = {}
    random, surprises = np.random.default_rng(1), []
    for step in range(400):
        row = random.normal(0, 2.0, VOCABULARY)
        mu = states.get(step, 4.0)
        token = Chain(sampling, NONE_SPECIAL, states).draw(
            torch.from_numpy(row), uniform(1, step), step, False
        )
        surprise = -math.log2(softmax(define_mirostat(row, float(mu)))[token])  # type: ignore[arg-type]
        assert states[step + 1] == pytest.approx(float(mu) - 0.2 * (surprise - 2.0))  # type: ignore[arg-type]
        surprises.append(surprise)
    assert abs(np.mean(surprises[50:]) - 2.0) < 0.2


def test_adaptive_p_remembers_the_probabilities_before_its_change() -> None:
    sampling = SamplingParams(**NEUTRAL, adaptive_target=0.5, adaptive_decay=0.8)
    states: SamplerStates = {}
    row = np.log(np.array([0.6, 0.3, 0.1]))
    special = torch.zeros(3, dtype=torch.bool)
    weighted_sum, total_weight = 0.5 / (1 - 0.8), 1 / (1 - 0.8)
    for step in range(20):
        token = Chain(sampling, special, states).draw(torch.from_numpy(row), uniform(2, step), step, False)
        weighted_sum = [0.6, 0.3, 0.1][token] + 0.8 * weighted_sum
        total_weight = 1 + 0.8 * total_weight
        state = states[step + 1]
        assert isinstance(state, AdaptiveState)
        assert (state.weighted_sum, state.total_weight) == pytest.approx((weighted_sum, total_weight))


def test_a_step_that_is_drawn_again_has_the_state_that_it_had() -> None:
    sampling = SamplingParams(**NEUTRAL, mirostat=2)
    states: SamplerStates = {}
    row = torch.from_numpy(np.random.default_rng(5).normal(0, 2, VOCABULARY))

    def story(begin: int, end: int) -> list[int]:
        chain_ = Chain(sampling, NONE_SPECIAL, states)  # a new one, as after a rollback
        return [chain_.draw(row, uniform(4, step), step, False) for step in range(begin, end)]

    whole = story(0, 12)
    assert story(5, 12) == whole[5:] and story(0, 12) == whole
