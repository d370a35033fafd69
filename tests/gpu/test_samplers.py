"""Test samplers on CUDA: in the graphs and on the host, alone and together, drawn as they are defined."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from jet.api import Request, SamplingParams
from jet.engine.chain import as_numbers
from jet.engine.model_runner import ModelRunner
from jet.engine.sequence import Sequence
from jet.ops.decode_batch import DecodeBatch, SamplerFlags
from jet.ops.sampler_chain import ChainSettings, filter_row
from tests.engine.test_local_story import ids
from tests.gpu.test_decode import GREEDY, load, serve
from tests.networks import GOLDEN
from tests.ops.test_sampling import p_value

pytestmark = pytest.mark.gpu

CUDA = "cuda"
NEUTRAL = SamplingParams(1.0, 1.0, 0, 0.0, 1.0, max_new_tokens=24, seed=5)
SETTINGS = {
    "top-nσ": replace(NEUTRAL, top_n_sigma=1.0, temperature=2.0),
    "typical": replace(NEUTRAL, typical_p=0.5, top_p=0.9, seed=6),
    "dynamic temperature": replace(NEUTRAL, dynatemp_range=0.8, repetition_penalty=1.2, seed=7),
    "mirostat": replace(NEUTRAL, mirostat=2, mirostat_tau=3.0, temperature=2.5, seed=8),
    "adaptive-p": replace(NEUTRAL, adaptive_target=0.2, min_p=0.02, temperature=2.5, seed=9),
    "XTC": replace(NEUTRAL, xtc_probability=0.6, xtc_threshold=0.02, top_p=0.95, temperature=2.5, seed=10),
    "all at once": replace(
        NEUTRAL,
        temperature=2.5,
        adaptive_target=0.3,
        min_p=0.01,
        xtc_probability=0.5,
        xtc_threshold=0.03,
        top_n_sigma=2.0,
        dynatemp_range=0.3,
        repetition_penalty=1.2,
        seed=11,
    ),
    "late temperature": replace(
        NEUTRAL, top_p=0.8, temperature=1.5, sampler_order="top_p;temperature", seed=3
    ),
    "another order": replace(
        NEUTRAL, top_p=0.8, min_p=0.1, temperature=1.5, sampler_order="min_p;temperature;top_p", seed=3
    ),
    "plain": replace(NEUTRAL, top_p=0.9, seed=4),
    "greedy": GREEDY,
}


def test_stories_are_the_same_alone_and_together() -> None:
    engine = serve(load(GOLDEN / "tiny-2b", torch.float32))
    alone = [ids(list(engine.submit(Request("1 2 3", sampling)))) for sampling in SETTINGS.values()]
    streams = [engine.submit(Request("1 2 3", sampling)) for sampling in SETTINGS.values()]
    assert [ids(list(stream)) for stream in streams] == alone
    engine.close()


IN_THE_GRAPH = [name for name in SETTINGS if name != "another order"]
FINAL = ["XTC", "mirostat", "adaptive-p", "all at once", "late temperature"]


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    return make_runner()


def make_runner() -> ModelRunner:
    return ModelRunner(load(GOLDEN / "tiny-2b", torch.float32), frozenset(), slots=8, tokens=8192)


def begin(runner: ModelRunner, sampling: SamplingParams, guarded: bool = False) -> Sequence:
    sequence = runner.allocate(sampling)
    if guarded:
        runner.guard(sequence)
    runner.prefill(sequence, [1, 2, 3])
    return sequence


def draw(runner: ModelRunner, sequence: Sequence, count: int, marked: bool = False) -> list[int]:
    drawn = []
    for _ in range(count):
        drawn.append(runner.decode_one(sequence))
        if marked:
            runner.mark(sequence, 3)
    return drawn


def story(
    runner: ModelRunner, sampling: SamplingParams, guarded: bool = False
) -> tuple[list[int], list[Any]]:
    """Return the tokens of a story, and the states of its samplers."""
    sequence = begin(runner, sampling, guarded)
    tokens = draw(runner, sequence, sampling.max_new_tokens, guarded)
    runner.free(sequence)
    return tokens, [as_numbers(state) for _, state in sorted(sequence.sampler_states.items())]


@pytest.mark.parametrize("name", IN_THE_GRAPH)
def test_samplers_are_in_the_graph_and_overlap(runner: ModelRunner, name: str) -> None:
    sequence = begin(runner, SETTINGS[name])
    draw(runner, sequence, 2)
    assert sequence.in_flight is not None and not runner._decoder._host_samplers  # type: ignore[attr-defined]
    runner.free(sequence)


@pytest.mark.parametrize("name", FINAL)
def test_the_device_draws_what_the_host_draws_from_the_same_logits(
    runner: ModelRunner, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, states = story(runner, SETTINGS[name])
    assert len(states) == (len(tokens) if SETTINGS[name].has_state else 0)
    monkeypatch.setattr(Sequence, "row_samplers", None)  # so the host draws
    expected, twins = story(runner, SETTINGS[name])
    assert tokens == expected
    for here, there in zip(states, twins, strict=True):
        assert here == pytest.approx(there, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", FINAL)
def test_a_graph_draws_what_its_kernels_draw_outside_of_one(runner: ModelRunner, name: str) -> None:
    """Bit for bit: where logits are kept from before a penalty, the sampler is not part of the graph."""
    sampling = replace(SETTINGS[name], repetition_penalty=1.1)
    assert story(runner, sampling) == story(runner, sampling, guarded=True) == story(runner, sampling)


@pytest.mark.parametrize("name", FINAL)
def test_tokens_that_are_taken_back_take_the_state_with_them(runner: ModelRunner, name: str) -> None:
    sampling = SETTINGS[name]
    expected, states = story(runner, sampling)
    sequence = begin(runner, sampling, guarded=True)
    assert draw(runner, sequence, 8, True) == expected[:8] and sequence.in_flight is not None
    for kept in (5, 0, 1):
        assert runner.roll_back(sequence, 3 + kept, kept, ())
        assert draw(runner, sequence, 6, True) == expected[kept : kept + 6]
    assert runner.roll_back(sequence, 3 + 2, 2, (expected[2],))
    others = draw(runner, sequence, 6, True)  # the first of them by the host
    assert others[0] != expected[2]
    assert runner.roll_back(sequence, 3 + 2, 2, (expected[2],))
    assert draw(runner, sequence, 6, True) == others
    assert runner.roll_back(sequence, 3, 0, ())
    assert draw(runner, sequence, 9, True) == expected[:9]
    found = [as_numbers(sequence.sampler_states[step]) for step in range(1, 10) if states]
    assert found == states[:9]
    runner.free(sequence)


def test_rows_come_and_go_and_keep_their_states(runner: ModelRunner) -> None:
    names = ["mirostat", "adaptive-p", "XTC", "plain", "mirostat", "adaptive-p"]
    samplings = [replace(SETTINGS[name], seed=20 + number) for number, name in enumerate(names)]
    alone = [story(runner, sampling)[0] for sampling in samplings]
    together: dict[int, list[int]] = {number: [] for number in range(len(names))}
    waiting, running = list(together), dict[int, Sequence]()
    turn = 0
    while waiting or running:
        if waiting and len(running) < 4 and turn % 3 == 0:
            number = waiting.pop(0)
            running[number] = begin(runner, samplings[number])
        turn += 1
        numbers = list(running)
        for number, token in zip(numbers, runner.decode([running[one] for one in numbers]), strict=True):
            assert isinstance(token, int)
            together[number].append(token)
            if len(together[number]) == samplings[number].max_new_tokens:
                runner.free(running.pop(number))
    assert list(together.values()) == alone


def test_hardly_any_deviation_leaves_the_likeliest(runner: ModelRunner) -> None:
    least = replace(NEUTRAL, top_n_sigma=1e-6, temperature=5.0)
    sequences = [runner.allocate(sampling) for sampling in (least, replace(GREEDY, max_new_tokens=24))]
    for sequence in sequences:
        runner.prefill(sequence, [1, 2, 3])
    for _ in range(24):
        first, second = runner.decode(sequences)
        assert first == second
    for sequence in sequences:
        runner.free(sequence)


@pytest.mark.parametrize("name", ["top-nσ", "typical", "dynamic temperature"])
def test_draws_on_the_device_have_the_defined_distribution(name: str) -> None:
    from jet.ops.triton import fused_sampling as kernels
    from jet.ops.triton.shape_logits import ShapeBuffers

    sampling, vocabulary, draws = SETTINGS[name], 300, 12_000
    row = torch.randn(vocabulary, generator=torch.Generator().manual_seed(3)) * 2
    rows = DecodeBatch.make(draws, CUDA)
    rows.active.fill_(1)
    rows.temperature.fill_(sampling.temperature)
    rows.top_p.fill_(sampling.top_p)
    rows.step.copy_(torch.arange(draws))
    buffers = ShapeBuffers.make(draws, vocabulary, CUDA)
    setting = (
        sampling.top_n_sigma,
        sampling.typical_p,
        sampling.dynatemp_range,
        sampling.dynatemp_exponent,
    )
    buffers.write([setting] * draws)
    seen = torch.zeros(draws + 1, vocabulary, dtype=torch.uint8, device=CUDA)
    scratch = kernels.SamplerScratch.make(draws, vocabulary, CUDA)
    logits = row.to(CUDA).expand(draws, -1).contiguous()
    kernels.sample(logits, rows, seen, scratch, SamplerFlags(uses_shape=True), shape=buffers)
    counts = torch.bincount(rows.token.cpu(), minlength=vocabulary).double()
    chain = ChainSettings(
        sampling.temperature,
        sampling.dynatemp_range,
        sampling.dynatemp_exponent,
        sampling.top_n_sigma,
        sampling.typical_p,
        top_p=sampling.top_p,
    )
    wanted = filter_row(row.double(), chain).softmax(-1)
    assert counts[wanted == 0].sum() <= 2  # a near tie in float32
    assert p_value(counts, wanted) > 1e-3
