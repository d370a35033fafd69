"""Compare the compiled draw with `jet.ops.sampling`, its definition."""

from __future__ import annotations

import math
import random

import pytest
import torch

from jet.ops.numba.token_draw import TokenDrawer
from jet.ops.sampling import penalize_repetition, sample


@pytest.mark.parametrize("vocabulary", [1, 300, 5001])
def test_draws_are_those_of_the_definition(vocabulary: int) -> None:
    """Compare the logits of the drawn tokens, because equal logits may be taken in another order."""
    choice, random_numbers = random.Random(vocabulary), torch.Generator().manual_seed(vocabulary)
    drawer = TokenDrawer(vocabulary)
    for _ in range(400):
        logits = torch.randn(vocabulary, generator=random_numbers) * choice.choice([0.1, 1, 3, 20])
        logits = logits.round() if choice.random() < 0.2 else logits
        if choice.random() < 0.2:
            logits[torch.rand(vocabulary, generator=random_numbers) < 0.7] = -math.inf
            logits[vocabulary // 2] = 1.0
        seen = torch.rand(vocabulary, generator=random_numbers) < 0.2 if choice.random() < 0.5 else None
        penalty = 1.0 if seen is None else choice.choice([1.05, 1.5, 0.7])
        temperature, top_k = choice.choice([0, 0.01, 0.8, 4.9]), choice.choice([0, 0, 1, 40, 299, 9000])
        top_p, min_p = choice.choice([1, 0.95, 0.5, 0.01]), choice.choice([0, 0.05, 0.3, 1])
        chance = choice.choice([choice.random(), 0.0, 1 - 2.0**-53])
        filters = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        rows = logits[None] if seen is None else penalize_repetition(logits[None], seen[None], penalty)
        wanted = int(sample(rows, torch.tensor([chance], dtype=torch.float64), **filters))
        found = drawer.draw(logits, seen, chance, penalty=penalty, **filters)
        assert rows[0, found] == pytest.approx(float(rows[0, wanted]), rel=1e-4), filters


def test_chances_cover_all_kept_tokens_by_their_weights() -> None:
    logits = torch.tensor([0.0, 2.0, -math.inf, 2.0, 1.0])
    drawer, plain = TokenDrawer(5), {"penalty": 1.0, "temperature": 1.0, "top_k": 0, "min_p": 0.0}
    weights = logits.double().exp()[[1, 3, 4, 0]]
    ends = (weights / weights.sum()).cumsum(0)
    for token, end in zip((1, 3, 4, 0), ends.tolist(), strict=True):
        assert drawer.draw(logits, None, end - 1e-6, top_p=1.0, **plain) == token
    assert drawer.draw(logits, None, 1 - 2.0**-53, top_p=0.3, **plain) == 1


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_not_finite_is_an_error(broken: float) -> None:
    drawer = TokenDrawer(100)
    settings = {"penalty": 1.1, "temperature": 0.8, "top_k": 3, "top_p": 0.9, "min_p": 0.0}
    logits = torch.zeros(100)
    logits[50] = broken
    with pytest.raises(FloatingPointError, match="not a number"):
        drawer.draw(logits, torch.ones(100, dtype=torch.bool), 0.5, **settings)
    with pytest.raises(FloatingPointError, match="not a number"):
        drawer.draw(torch.full((100,), -math.inf), None, 0.5, **settings)
