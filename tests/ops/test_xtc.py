"""Test XTC as its author and koboldcpp define it: on the tokens left by the filters before it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jet.ops.sampling import sample


def left_by_definition(
    logits: list[float],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    threshold: float,
    special: set[int],
) -> set[int]:
    """Return the tokens that can be drawn, by the published steps over a list of candidates."""
    scaled = [logit / temperature for logit in logits]
    peak = max(scaled)
    row = sorted(((math.exp(s - peak), id) for id, s in enumerate(scaled)), reverse=True)
    if 0 < top_k < len(row):
        row = [(p, id) for p, id in row if p >= row[top_k - 1][0]]
    total = sum(p for p, _ in row)
    kept: list[tuple[float, int]] = []
    for p, id in row:  # top-p and min-p look at the same probabilities, as transformers' warpers do in a row
        if sum(q for q, _ in kept) / total < top_p:
            kept.append((p, id))
    row = [(p, id) for p, id in kept if p >= min_p * row[0][0]]
    total = sum(p for p, _ in row)
    crossing = [id for p, id in row if p / total >= threshold]
    removed = set(crossing[:-1])
    if removed & special:
        removed = set()
    return {id for _, id in row} - removed


def drawn(logits: list[float], special: set[int], **settings: float) -> set[int]:
    """Return all tokens that are drawn by 1,500 random numbers evenly spaced in [0, 1)."""
    chances = torch.linspace(0, 1, 1_501, dtype=torch.float64)[:-1]
    mask = torch.zeros(len(logits), dtype=torch.bool)
    mask[list(special)] = True
    rows = torch.tensor(logits).expand(len(chances), -1)
    return set(sample(rows, chances, xtc_special=mask, **settings).tolist())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p", "threshold", "left"),
    [
        (0, 0.95, 0.0, 0.0, {3}),  # the tokens behind top-p are not the least likely choices
        (0, 1.0, 0.2, 0.0, {2}),
        (3, 1.0, 0.0, 0.0, {2}),
        (2, 1.0, 0.0, 0.1, {1}),
        (0, 0.95, 0.0, 0.1, {2, 3}),
        (1, 1.0, 0.0, 0.0, {0}),  # the only choice stays
        (0, 1.0, 0.0, 0.5, {0, 1, 2, 3, 4, 5}),
    ],
)
def test_filtered_tokens_do_not_count(
    top_k: int, top_p: float, min_p: float, threshold: float, left: set[int]
) -> None:
    logits = [math.log(p) for p in (0.4, 0.3, 0.2, 0.06, 0.03, 0.01)]
    filters = {"top_k": top_k, "top_p": top_p, "min_p": min_p}
    found = drawn(logits, set(), temperature=1.0, xtc_threshold=threshold, **filters)
    assert found == left


@given(
    st.lists(st.integers(-40, 40), min_size=1, max_size=12, unique=True),
    st.sampled_from([0.5, 1.0, 1.7]),
    st.integers(0, 12),
    st.sampled_from([0.3, 0.7, 0.95, 1.0]),
    st.sampled_from([0.0, 0.05, 0.3]),
    st.sampled_from([0.0, 0.02, 0.1, 0.25, 0.5]),
    st.sets(st.integers(0, 11), max_size=2),
)
@settings(max_examples=60, deadline=None)
def test_whatever_the_filters_what_can_be_drawn_is_what_the_definition_leaves(
    tenths: list[int],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    threshold: float,
    special: set[int],
) -> None:
    logits = [tenth / 10 for tenth in tenths]
    special = {id for id in special if id < len(logits)}
    wanted = left_by_definition(logits, temperature, top_k, top_p, min_p, threshold, special)
    found = drawn(
        logits,
        special,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        xtc_threshold=threshold,
    )
    assert found <= wanted
    scaled = [math.exp((logits[id] - max(logits[other] for other in wanted)) / temperature) for id in wanted]
    likely = {id for id, weight in zip(wanted, scaled, strict=True) if weight / sum(scaled) > 3e-3}
    assert likely <= found
