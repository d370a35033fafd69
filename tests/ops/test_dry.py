"""Compare DRY with its definition in loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jet.ops.dry import MAX_MATCH_LENGTH, MAX_PENALTY, dry_penalties

SETTINGS = {"multiplier": 0.8, "base": 1.75, "allowed_length": 2}


def by_definition(history: list[int], sequence_breakers: set[int], allowed_length: int) -> dict[int, int]:
    """Return the length of the repetition that each token would continue."""
    longest: dict[int, int] = {}
    for place in range(1, len(history)):
        token, length = history[place], 0
        while (
            length < MAX_MATCH_LENGTH
            and length < place
            and history[place - 1 - length] == history[-1 - length]
        ):
            if history[-1 - length] in sequence_breakers:
                break
            length += 1
        if token not in sequence_breakers and length >= allowed_length:
            longest[token] = max(length, longest.get(token, 0))
    return longest


@given(
    st.lists(st.integers(0, 4), max_size=60),
    st.sets(st.integers(0, 4), max_size=2),
    st.integers(1, 4),
)
def test_equals_the_definition(history: list[int], sequence_breakers: set[int], allowed_length: int) -> None:
    breaks = np.isin(np.arange(5), list(sequence_breakers))
    settings = {**SETTINGS, "allowed_length": allowed_length}
    ids, penalties = dry_penalties(np.array(history, np.int64), breaks, **settings)
    expected = by_definition(history, sequence_breakers, allowed_length)
    assert dict(zip(ids.tolist(), penalties.tolist(), strict=True)) == pytest.approx(
        {token: 0.8 * 1.75 ** (length - allowed_length) for token, length in expected.items()}
    )


def test_long_repetitions_cost_no_more_than_a_logit_can_bear() -> None:
    history = np.array([1, 2] * 500)
    ids, penalties = dry_penalties(history, np.zeros(5, bool), multiplier=100.0, base=10.0, allowed_length=1)
    assert ids.tolist() == [1] and penalties.tolist() == [MAX_PENALTY]


def test_nothing_is_repeated_in_what_is_short_or_new() -> None:
    for history in ([], [3], [1, 2, 3, 4]):
        ids, penalties = dry_penalties(np.array(history, np.int64), np.zeros(5, bool), **SETTINGS)
        assert len(ids) == len(penalties) == 0
