"""Test requests whose samplers have a memory or another order: as alone, and after a rollback."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from jet.api import Request, SamplingParams, TokenChunk
from jet.engine.engine import LocalEngine
from tests.engine.fakes import text_of
from tests.engine.test_healed_stories import make_engine, make_model

NEUTRAL = {"temperature": 1.2, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "max_new_tokens": 60}
SETTINGS = {
    "top-nσ": SamplingParams(**NEUTRAL, top_n_sigma=1.0, seed=1),
    "typical": SamplingParams(**NEUTRAL, typical_p=0.6, seed=2),
    "dynamic temperature": SamplingParams(**NEUTRAL, dynatemp_range=1.0, seed=3),
    "mirostat": SamplingParams(**NEUTRAL, mirostat=2, mirostat_tau=4.0, seed=4),
    "adaptive-p": SamplingParams(**NEUTRAL, adaptive_target=0.1, seed=5),
    "another order": SamplingParams(
        **{**NEUTRAL, "top_p": 0.7, "min_p": 0.02}, sampler_order="min_p;top_p;temperature", seed=6
    ),
    "plain": SamplingParams(**{**NEUTRAL, "top_p": 0.9}, seed=7),
}


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    engine = make_engine(make_model())
    yield engine
    engine.close()


def write(engine: LocalEngine, sampling: SamplingParams, banned: tuple[str, ...] = ()) -> str:
    chunks: list[TokenChunk] = list(engine.submit(Request("Once upon", sampling, banned=banned)))
    assert chunks[-1].stats.error is None, chunks[-1].stats.error
    return text_of(chunks)


def test_stories_are_the_same_alone_and_together(engine: LocalEngine) -> None:
    alone = [write(engine, sampling) for sampling in SETTINGS.values()]
    assert len(set(alone)) == len(alone)
    streams = [engine.submit(Request("Once upon", sampling)) for sampling in SETTINGS.values()]
    assert [text_of(list(stream)) for stream in streams] == alone


@pytest.mark.parametrize("name", ["mirostat", "adaptive-p"])
def test_a_rollback_goes_back_to_the_samplers_state(engine: LocalEngine, name: str) -> None:
    sampling = SETTINGS[name]
    plain = write(engine, sampling)
    assert write(engine, sampling, ("never to be seen",)) == plain
    word = re.findall(r"(?<=[^\w\s])[a-z]+(?=[^\w\s])|(?<= )[a-z]+(?= )", plain)[0]
    changed = write(engine, sampling, (word,))
    assert changed != plain and write(engine, sampling, (word,)) == changed
