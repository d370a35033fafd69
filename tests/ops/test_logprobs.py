"""Test log-probabilities of the drawn token and of the likeliest ones."""

from __future__ import annotations

import math

import pytest
import torch

from jet.ops.logprobs import top_logprobs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [0, 1, 5, 50, 60])
def test_log_probabilities_are_those_of_the_softmax(count: int, dtype: torch.dtype) -> None:
    logits = (torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * 4).to(dtype)
    token = torch.tensor([7, 0, 49], dtype=torch.int32)
    chosen, ids, others = top_logprobs(logits, token, count)
    wanted = logits.double().log_softmax(-1).float()
    torch.testing.assert_close(chosen, wanted[torch.arange(3), token.long()])
    assert ids.shape == others.shape == (3, min(count, 50))
    torch.testing.assert_close(others, wanted.gather(-1, ids))
    torch.testing.assert_close(others, wanted.sort(descending=True).values[:, :count])


def test_impossible_tokens_have_no_probability_and_harm_no_other() -> None:
    logits = torch.tensor([[-math.inf, 2.0, -math.inf, 2.0]])
    chosen, ids, others = top_logprobs(logits, torch.tensor([0]), 3)
    assert chosen.tolist() == [-math.inf]
    assert sorted(ids[0, :2].tolist()) == [1, 3]
    torch.testing.assert_close(others, torch.tensor([[-math.log(2), -math.log(2), -math.inf]]))


def test_the_logits_are_left_as_they_are() -> None:
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(1))
    before = logits.clone()
    top_logprobs(logits, torch.tensor([1, 2]), 4)
    assert torch.equal(logits, before)
