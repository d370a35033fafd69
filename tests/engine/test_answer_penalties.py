"""Test penalties on the answer's own tokens by OpenAI's formula, and tokens that end or may not end it."""

from __future__ import annotations

import pytest
import torch

from jet.api import RequestError, SamplingParams
from jet.engine.sampler import HostSampler, SpecialTokens

VOCABULARY = 32
SPECIAL = SpecialTokens(VOCABULARY, {0}, {1}, torch.device("cpu"))


def rows(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(1, VOCABULARY, generator=generator) * 0.5 for _ in range(count)]


def test_penalties_are_openais_formula_over_the_answer_alone() -> None:
    prompt = torch.tensor([5, 5, 5, 9])
    for presence, frequency in ((0.7, 0.0), (0.0, 0.4), (1.5, -0.3), (-2.0, 2.0)):
        sampling = SamplingParams(
            0.0,
            1.0,
            0,
            0.0,
            repetition_penalty=1.0,
            presence_penalty=presence,
            frequency_penalty=frequency,
            seed=1,
        )
        sampler = HostSampler(sampling, SPECIAL)
        sampler.append_prompt(prompt)
        answer: list[int] = []
        for step, logits in enumerate(rows(60)):
            if step == 20:  # its state is lost, and prompt and answer are read again
                sampler = HostSampler(sampling, SPECIAL)
                sampler.append_prompt(prompt)
                sampler.append_prompt(torch.tensor(answer))
            wanted = logits.clone()
            for token in set(answer):
                wanted[0, token] -= answer.count(token) * frequency + presence
            token, penalized = sampler.sample(logits, step)
            assert torch.allclose(penalized, wanted, atol=1e-5)
            answer.append(token)
        assert len(set(answer)) > 1


def test_forbidden_tokens_come_only_after_their_steps() -> None:
    logits = torch.zeros(1, VOCABULARY)
    logits[0, 7] = 5.0
    greedy = SamplingParams(0.0, 1.0, 0, 0.0, 1.0, seed=1)
    sampler = HostSampler(greedy, SPECIAL, forbidden=((7, 9), 3))
    assert [sampler.sample(logits, step)[0] == 7 for step in range(5)] == [False] * 3 + [True] * 2


@pytest.mark.parametrize("value", [2.1, -2.1, float("nan"), True, "1"])
@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
def test_penalties_beyond_openais_bounds_are_refused(name: str, value: object) -> None:
    with pytest.raises(RequestError, match=name):
        SamplingParams(**{name: value})
