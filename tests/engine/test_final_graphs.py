"""XTC, mirostat and adaptive-p in the graphs: stories and states beside those of the host, without a GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("triton")

from jet.api import SamplingParams
from jet.engine.chain import as_numbers, initial_state
from jet.engine.cuda_graphs import DEFAULT_SAMPLER, CudaGraphDecoder, sampler_flags
from jet.engine.decoder import EagerDecoder
from jet.engine.model_runner import ModelRunner
from jet.engine.sequence import Sequence
from jet.ops.decode_batch import SamplerFlags
from tests.engine.test_cuda_graphs import GREEDY, begin, runner, without_cuda, write  # noqa: F401
from tests.networks import golden_model

pytestmark = pytest.mark.thorough

NEUTRAL = SamplingParams(2.5, 1.0, 0, 0.0, 1.0, max_new_tokens=8, seed=5)
MIROSTAT = replace(NEUTRAL, mirostat=2, mirostat_tau=3.0, mirostat_eta=0.5, top_k=1)
ADAPTIVE = replace(NEUTRAL, adaptive_target=0.2, adaptive_decay=0.7, min_p=0.01, repetition_penalty=1.2)
SETTINGS = {
    "XTC": replace(NEUTRAL, xtc_probability=0.6, xtc_threshold=0.02, top_p=0.95),
    "mirostat": MIROSTAT,
    "mirostat with a varying temperature": replace(MIROSTAT, dynatemp_range=0.5, top_n_sigma=0.1, seed=8),
    "adaptive-p": ADAPTIVE,
    "KoboldAI's order": replace(
        NEUTRAL,
        top_p=0.95,
        xtc_probability=0.5,
        xtc_threshold=0.03,
        sampler_order="top_n_sigma;top_k;typical_p;top_p;min_p;temperature;xtc",
    ),
    "adaptive-p and XTC": replace(ADAPTIVE, xtc_probability=0.5, xtc_threshold=0.03, typical_p=0.9, seed=7),
}
PROMPT = (1, 2, 3)


def decoder_of(runner: ModelRunner) -> CudaGraphDecoder:  # noqa: F811
    assert isinstance(runner._decoder, CudaGraphDecoder)
    return runner._decoder


@pytest.mark.parametrize("name", SETTINGS)
def test_a_story_and_its_states_are_those_of_the_host(runner: ModelRunner, name: str) -> None:  # noqa: F811
    host = ModelRunner(golden_model("tiny-2b"), frozenset())
    assert isinstance(host._decoder, EagerDecoder)
    stories, states = list[list[int]](), list[dict[int, Any]]()
    for one in (runner, host):
        sequence = begin(one, SETTINGS[name], *PROMPT)
        stories.append([one.decode_one(sequence) for _ in range(8)])
        states.append(dict(sequence.sampler_states))
        one.free(sequence)
    assert stories[0] == stories[1] and not decoder_of(runner)._host_samplers
    assert [type(state) for state in states[0].values()] == [type(state) for state in states[1].values()]
    for here, there in zip(states[0].values(), states[1].values(), strict=True):
        assert as_numbers(here) == pytest.approx(as_numbers(there), rel=1e-4, abs=1e-4)
    assert set(states[0]) == (set(range(1, 9)) if SETTINGS[name].has_state else set())


def test_rows_write_together_what_each_writes_alone_and_ahead(runner: ModelRunner) -> None:  # noqa: F811
    samplings = [SETTINGS["XTC"], MIROSTAT, ADAPTIVE, replace(NEUTRAL, top_p=0.8, min_p=0.05), GREEDY]
    alone = [write(runner, replace(sampling, max_new_tokens=6), *PROMPT) for sampling in samplings]
    assert len({tuple(story) for story in alone}) == len(alone)
    writing = [begin(runner, replace(sampling, max_new_tokens=6), *PROMPT) for sampling in samplings]
    together = [runner.decode(writing) for _ in range(5)]
    assert all(sequence.in_flight is not None for sequence in writing) and decoder_of(runner).can_overlap(
        writing
    )
    together.append(runner.decode(writing))
    assert [list(story) for story in zip(*together, strict=True)] == alone
    assert not writing[0].sampler_states and not writing[3].sampler_states


@pytest.mark.parametrize("sampling", [MIROSTAT, ADAPTIVE], ids=["mirostat", "adaptive-p"])
def test_rows_that_join_and_leave_keep_their_states(runner: ModelRunner, sampling: SamplingParams) -> None:  # noqa: F811
    """Their rows change, and the one that leaves gives its place to one that begins anew."""
    samplings = [replace(sampling, seed=seed, max_new_tokens=10) for seed in (1, 2, 3)]
    alone = [write(runner, one, *PROMPT) for one in samplings]
    first, second = (begin(runner, one, *PROMPT) for one in samplings[:2])
    stories: dict[Sequence, list[int]] = {first: [], second: []}

    def step(*sequences: Sequence) -> None:
        for sequence, token in zip(sequences, runner.decode(list(sequences)), strict=True):
            assert isinstance(token, int)
            stories[sequence].append(token)

    for _ in range(4):
        step(first, second)
    step(second)
    slot = first.slot
    runner.free(first)
    third = begin(runner, samplings[2], *PROMPT)
    stories[third] = []
    assert third.slot == slot
    for _ in range(5):
        step(third, second)
    for _ in range(5):
        step(third)
    assert stories[second] == alone[1] and stories[third] == alone[2]
    assert stories[first] == alone[0][:4]


@pytest.mark.parametrize("name", ["XTC", "mirostat", "adaptive-p"])
def test_tokens_that_are_taken_back_take_the_state_with_them(runner: ModelRunner, name: str) -> None:  # noqa: F811
    sampling = replace(SETTINGS[name], max_new_tokens=12)
    expected = write(runner, sampling, *PROMPT)
    sequence = runner.allocate(sampling)
    runner.guard(sequence)
    runner.prefill(sequence, list(PROMPT))

    def draw(count: int) -> list[int]:
        drawn = []
        for _ in range(count):
            drawn.append(runner.decode_one(sequence))
            runner.mark(sequence, 3)
        return drawn

    assert draw(6) == expected[:6] and sequence.in_flight is not None
    for kept in (4, 0, 1):
        assert runner.roll_back(sequence, 3 + kept, kept, ())
        assert draw(5) == expected[kept : kept + 5]
    assert runner.roll_back(sequence, 3 + 2, 2, (expected[2],))
    (other,) = draw(1)  # drawn by the host, with the state that the device has left
    host = ModelRunner(golden_model("tiny-2b"), frozenset())
    twin = begin(host, sampling, *PROMPT)
    assert [host.decode_one(twin) for _ in range(2)] == expected[:2]
    assert other != expected[2]
    if sampling.has_state:
        assert set(sequence.sampler_states) >= {1, 2, 3}
    again = draw(4)
    assert runner.roll_back(sequence, 3 + 2, 2, (expected[2],))
    assert draw(5) == [other, *again]


@pytest.mark.parametrize("sampling", [MIROSTAT, ADAPTIVE], ids=["mirostat", "adaptive-p"])
def test_a_story_that_is_recomputed_goes_on_with_its_state(
    runner: ModelRunner,  # noqa: F811
    sampling: SamplingParams,
) -> None:
    """As after a failed step or a preemption: what was in flight has left nothing behind."""
    expected = write(runner, sampling, *PROMPT)
    sequence = begin(runner, sampling, *PROMPT)
    told = [runner.decode_one(sequence) for _ in range(3)]
    assert sequence.in_flight is not None
    sequence.num_accepted = 3
    runner.reset(sequence)
    assert set(sequence.sampler_states) == {1, 2, 3}
    runner.prefill(sequence, [*PROMPT, *told])
    sequence.has_generated = True
    assert [*told, *(runner.decode_one(sequence) for _ in range(5))] == expected


def test_an_answer_begins_anew(runner: ModelRunner) -> None:  # noqa: F811
    first = write(runner, MIROSTAT, *PROMPT)
    assert write(runner, MIROSTAT, *PROMPT) == first
    sequence = begin(runner, MIROSTAT, *PROMPT)
    assert not sequence.sampler_states and initial_state(MIROSTAT) == 6.0


def test_other_batches_pay_nothing(runner: ModelRunner) -> None:  # noqa: F811
    plain = Sequence(replace(NEUTRAL, top_p=0.9), 0)
    assert sampler_flags([plain]) == DEFAULT_SAMPLER
    for sampling in (SETTINGS["XTC"], MIROSTAT, ADAPTIVE):
        assert sampler_flags([plain, Sequence(sampling, 1)]) == SamplerFlags(uses_final=True)
        assert (
            sampler_flags([Sequence(replace(sampling, temperature=0.0, repetition_penalty=1.0), 0)]) is None
        )


@pytest.mark.parametrize(
    "sampling",
    [
        replace(SETTINGS["XTC"], xtc_threshold=1e-7),
        replace(ADAPTIVE, min_p=0.0),
        replace(NEUTRAL, xtc_probability=0.5, top_p=0.9, sampler_order="xtc;temperature;top_p"),
        replace(MIROSTAT, dry_multiplier=1.0),
    ],
)
def test_what_the_kernels_cannot_draw_is_the_hosts(runner: ModelRunner, sampling: SamplingParams) -> None:  # noqa: F811
    sequence = begin(runner, sampling, *PROMPT)
    assert sequence in decoder_of(runner)._host_samplers and not decoder_of(runner).can_overlap([sequence])
    beside = begin(runner, MIROSTAT, *PROMPT)
    stories = list(zip(*(runner.decode([sequence, beside]) for _ in range(6)), strict=True))
    host = ModelRunner(golden_model("tiny-2b"), frozenset())
    alone = [write(host, replace(one, max_new_tokens=6), *PROMPT) for one in (sampling, MIROSTAT)]
    assert [list(story) for story in stories] == alone
