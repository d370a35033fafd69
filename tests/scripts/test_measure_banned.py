"""Test the shipped model with 40 banned phrases that it would write: none appears, alone or in a batch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from jet.engine.loading import LocalConfig
from scripts.measure_banned import PHRASES, check, choose_phrases, make_cases, write

TOKENS = 40


@pytest.mark.thorough
def test_none_of_40_phrases_appears_in_the_shipped_models_stories() -> None:
    engine = LocalConfig(model="assets/story-model", device="cpu", max_running_requests=4).create()
    cases = make_cases(24)
    with ThreadPoolExecutor(4) as pool:
        freely = list(pool.map(partial(write, engine, (), TOKENS), cases))
        banned = choose_phrases([text for text, _, _ in freely])
        assert len(banned) == sum(PHRASES.values()) == 40
        stories = list(pool.map(partial(write, engine, banned, TOKENS), cases))
    tempted = sum(bool(check(case, text, banned)) for case, (text, _, _) in zip(cases, freely, strict=True))
    assert tempted >= 15
    assert not [
        found
        for case, (text, _, _) in zip(cases, stories, strict=True)
        if (found := check(case, text, banned))
    ]
    for case, story in list(zip(cases, stories, strict=True))[:6]:
        alone = write(engine, banned, TOKENS, case)
        assert (alone[0], alone[2]) == (story[0], story[2])
    engine.close()
