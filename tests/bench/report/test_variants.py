"""Test the deviation from float64: against numpy, and for known differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jet.bench.report.variants import deviation_of_logits, deviation_of_tokens, logits
from tests.networks import golden_expectations, golden_model

TOKENS = [3, 1, 4, 1, 5]


def log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def test_deviation_is_what_numpy_says() -> None:
    random = np.random.default_rng(0)
    exact = random.normal(size=(5, 7))
    found = exact + random.normal(size=(5, 7)) / 10
    summary = deviation_of_logits(torch.tensor(found), torch.tensor(exact), TOKENS)
    assert summary.relative == pytest.approx(np.linalg.norm(found - exact) / np.linalg.norm(exact))
    # Position t is about token t + 1; the last has none.
    off = [abs(log_softmax(found)[t, TOKENS[t + 1]] - log_softmax(exact)[t, TOKENS[t + 1]]) for t in range(4)]
    assert summary.logprob == pytest.approx(max(off))
    assert summary.agreement == np.mean(found.argmax(-1) == exact.argmax(-1))
    assert summary.positions == 5


def test_nothing_deviates_from_itself() -> None:
    exact = torch.randn(5, 7, dtype=torch.float64)
    assert deviation_of_logits(exact, exact, TOKENS)[:3] == (0.0, 0.0, 1.0)


def test_what_was_written_is_compared_where_it_stands() -> None:
    exact = torch.randn(3, 7, dtype=torch.float64)
    best = exact.argmax(-1).tolist()
    logprobs = [float(row.log_softmax(-1)[token]) for row, token in zip(exact, best, strict=True)]
    summary = deviation_of_tokens(exact, best, [logprobs[0], logprobs[1] + 0.5, logprobs[2]])
    assert summary.relative is None and summary.logprob == pytest.approx(0.5)
    assert summary.agreement == 1.0
    other = [(token + 1) % 7 for token in best]
    assert deviation_of_tokens(exact, other, logprobs).agreement == 0.0


def test_float32_is_as_near_to_float64_as_to_the_golden_logits() -> None:
    expected = golden_expectations("tiny-2b")
    tokens = golden_prompt(expected)
    exact = logits(golden_model("tiny-2b", torch.float64, "eager"), tokens)
    assert deviation_of_logits(logits(golden_model("tiny-2b"), tokens), exact, tokens).relative < 1e-4
    rough = logits(golden_model("tiny-2b", torch.bfloat16), tokens)
    assert deviation_of_logits(rough, exact, tokens).relative > 1e-3


def golden_prompt(expected: dict[str, torch.Tensor]) -> list[int]:
    (name, *_) = (key for key in expected if "ids" in key or "prompt" in key)
    return expected[name].flatten().tolist()
