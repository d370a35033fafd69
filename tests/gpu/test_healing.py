"""Test token healing and banned end tokens on CUDA: graphs equal eager steps, batched and alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")

from jet.api import Request, SamplingParams
from jet.engine.cuda_graphs import MIN_TOKENS_SAMPLER, CudaGraphDecoder
from jet.engine.engine import LocalEngine
from tests.engine.test_healed_stories import finish, submit, taken, write

pytestmark = pytest.mark.gpu

GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0, max_new_tokens=24, seed=0)
SAMPLED = SamplingParams(max_new_tokens=24, seed=3)
CUTS = [
    "The old lighth",
    "The old lighthouse keeper opened the door and ",
    "She sat down by the oc",
    "the clockmak",
    "“Who is there?",
    "The dragon was much smaller than Til",
    "On the third day the fog lifted\t",
    "No",
]


def test_graphs_write_what_eager_steps_write(engine: LocalEngine, eager: LocalEngine) -> None:
    for prompt in CUTS:
        assert write(engine, prompt, GREEDY) == write(eager, prompt, GREEDY)
        for seed in range(6):  # the draw at the border is one and the same
            first = replace(SAMPLED, seed=seed, max_new_tokens=1, top_k=1)
            assert write(engine, prompt, first) == write(eager, prompt, first)


def test_healed_stories_written_together_are_those_written_alone(engine: LocalEngine) -> None:
    samplings = [
        GREEDY,
        SAMPLED,
        replace(SAMPLED, top_k=7, repetition_penalty=1.3),
        replace(SAMPLED, dry_multiplier=2.0, xtc_probability=0.3),
    ]
    requests = [
        (prompt, replace(samplings[number % 4], seed=number, max_new_tokens=20 + number))
        for number, prompt in enumerate(CUTS)
    ]
    alone = [write(engine, *request) for request in requests]
    streams = [submit(engine, *request) for request in requests]
    assert [finish(stream)[:2] for stream in streams] == alone


def test_retry_and_going_on_read_at_most_the_healed_tokens(engine: LocalEngine) -> None:
    for number, prompt in enumerate(CUTS[:4]):
        user = f"reader {number}"
        expected = write(engine, prompt, SAMPLED)
        text, ids, stats, _ = finish(submit(engine, prompt, SAMPLED, user))
        assert (text, ids) == expected and stats.cached_tokens == 0
        text, ids, stats, _ = finish(submit(engine, prompt, SAMPLED, user))
        assert (text, ids) == expected
        assert stats.prompt_tokens - stats.cached_tokens == taken(engine, prompt)
        longer = prompt.rstrip("\t") + text
        answer, _, stats, _ = finish(submit(engine, longer, SAMPLED, user))
        assert answer == write(engine, longer, SAMPLED)[0]
        if "\t" not in prompt:
            assert stats.prompt_tokens - stats.cached_tokens <= 8


def test_a_story_stopped_in_the_middle_goes_on_as_afresh(engine: LocalEngine) -> None:
    for place in (1, 5, 11, 30):
        stream = submit(engine, CUTS[1], replace(SAMPLED, max_new_tokens=200), f"stops {place}")
        text = ""
        for number, chunk in enumerate(stream):
            text += chunk.text
            if number == place:
                stream.abort()
        longer = CUTS[1] + text
        answer, _, stats, _ = finish(submit(engine, longer, SAMPLED, f"stops {place}"))
        assert answer == write(engine, longer, SAMPLED)[0]
        assert stats.prompt_tokens - stats.cached_tokens <= 24


@pytest.mark.parametrize("healing", [False, True])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, replace(SAMPLED, top_k=5)])
def test_barred_ends_are_those_of_eager_steps(
    engine: LocalEngine, eager: LocalEngine, sampling: SamplingParams, healing: bool
) -> None:
    """Test after the end of a story, where the end token is likeliest; other rows of a batch may end."""
    ended = "They lived happily ever after.\n\nThe End."

    def ask(engine: LocalEngine, number: int, tokens: int, alternatives: int = 0) -> tuple[int, ...]:
        more = replace(sampling, seed=number, max_new_tokens=12)
        request = Request(ended, more, alternatives, healing=healing, min_tokens=tokens)
        return finish(engine.submit(request))[1]

    for number in range(3):
        for tokens in (0, 4, 12):
            assert len(ask(engine, number, tokens)) >= tokens - healing
            if sampling.temperature == 0:
                assert ask(engine, number, tokens) == ask(eager, number, tokens)
                assert ask(engine, number, tokens, 3) == ask(eager, number, tokens)
    streams = [
        engine.submit(Request(ended, replace(sampling, seed=n, max_new_tokens=12), min_tokens=4 * n))
        for n in range(4)
    ]
    together = [finish(stream)[1] for stream in streams]
    alone = [
        finish(engine.submit(Request(ended, replace(sampling, seed=n, max_new_tokens=12), min_tokens=4 * n)))[
            1
        ]
        for n in range(4)
    ]
    assert together == alone and all(len(ids) >= 4 * n for n, ids in enumerate(together))


def test_the_graphs_of_barred_ends_are_ready_before_anybody_asks(engine: LocalEngine) -> None:
    decoder = engine._runner._decoder
    assert isinstance(decoder, CudaGraphDecoder)
    assert decoder._graphs_of_size(1).has(MIN_TOKENS_SAMPLER)
    assert torch.cuda.is_available()
