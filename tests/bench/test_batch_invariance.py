"""Test which differences from a story generated alone count as rounding, and which as errors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pytest

from jet.api import (
    MAX_TOP_LOGPROBS,
    EngineInfo,
    Request,
    RequestStats,
    SamplingParams,
    TokenChunk,
    TokenLogprob,
    TokenLogprobs,
)
from jet.bench import batch_invariance
from jet.bench.batch_invariance import BatchInvarianceCheck, Completion
from jet.bench.cases.soak import Round, choose_completions
from jet.bench.options import BenchError
from tests.engine.fakes import INFO

GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0, seed=0)
# In every place, alone: these tokens, with these log-probabilities.
LIKELY = {1: -0.5, 2: -0.75, 3: -2.0}


class Written:
    """A finished stream with one token per chunk."""

    def __init__(self, tokens: int, error: str | None) -> None:
        self._tokens, self._error = tokens, error

    def __iter__(self) -> Iterator[TokenChunk]:
        return self.chunks()

    def chunks(self, interval_s: float = 0.0) -> Iterator[TokenChunk]:
        likeliest, *_ = likely = tuple(TokenLogprob(token, "", logprob) for token, logprob in LIKELY.items())
        for number in range(self._tokens):
            stats = RequestStats(tokens=number + 1)
            yield TokenChunk("", (likeliest.token_id,), stats, (TokenLogprobs(likeliest, likely),))
        yield TokenChunk("", (), RequestStats(tokens=self._tokens, finish_reason="length", error=self._error))

    def abort(self) -> None:
        pass


class LoneEngine:
    """An engine that repeats the likeliest token of `LIKELY`, at most `room` times."""

    def __init__(self, room: int = 1000, error: str | None = None) -> None:
        self._room, self._error = room, error
        self.asked: list[Request] = []

    def submit(self, request: Request) -> Written:
        self.asked.append(request)
        return Written(min(self._room, request.sampling.max_new_tokens), self._error)

    def info(self) -> EngineInfo:
        return INFO

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def close(self, reason: str = "") -> None:
        pass


def story(*written: tuple[int, float]) -> Completion:
    """Return a completion of these tokens, each with its log-probability."""
    return Completion([7, 8], [token for token, _ in written], [logprob for _, logprob in written])


def compare(*stories: Completion) -> dict[str, float]:
    return BatchInvarianceCheck(LoneEngine(), GREEDY).compare(stories)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make one shared token enough for a verdict."""
    monkeypatch.setattr(batch_invariance, "MIN_SHARED_TOKENS", 1)


def test_the_same_story_differs_by_nothing() -> None:
    engine = LoneEngine()
    figures = BatchInvarianceCheck(engine, GREEDY).compare([story((1, -0.5), (1, -0.5))])
    assert figures == {"differing": 0.0, "margin": 0.0, "error": 0.0}
    (asked,) = engine.asked
    assert asked.prompt == "7 8" and asked.sampling.max_new_tokens == 2
    assert asked.top_logprobs == MAX_TOP_LOGPROBS and asked.cache_salt == "", "afresh, by a new user"


def test_the_error_is_the_largest_of_all_tokens_that_are_the_same() -> None:
    figures = compare(story((1, -0.5), (1, -0.625)), story((1, -0.25)), story((1, -0.5)))
    assert figures == {"differing": 0.0, "margin": 0.0, "error": 0.25}


@pytest.mark.parametrize("off", [-0.375, -0.625])
def test_a_near_tie_is_no_mistake(off: float) -> None:
    figures = compare(story((1, off), (2, -0.5)), story((1, -0.5)))
    assert figures == {"differing": 0.5, "margin": 0.25, "error": 0.125}


def test_a_token_that_is_less_likely_than_rounding_explains_is_one() -> None:
    with pytest.raises(BenchError, match=r"1\.5 less likely .* 3 x 0\.125\.") as raised:
        compare(story((1, -0.375), (3, -0.5)), story((1, -0.5)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("rest", [(), ((1, -9.0), (3, -9.0))])
def test_what_comes_with_and_after_another_token_excuses_nothing(rest: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(BenchError, match=r"0\.25 less likely .* 3 x 0\."):
        compare(story((1, -0.5), (2, -9.0), *rest))


def test_a_token_that_is_not_among_the_likeliest_cannot_be_a_near_tie() -> None:
    with pytest.raises(BenchError, match=re.escape("inf less likely")):
        compare(story((1, -100.5), (4, -0.5)))


def test_of_few_tokens_nothing_is_said_until_there_are_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_invariance, "MIN_SHARED_TOKENS", 3)
    judge = BatchInvarianceCheck(LoneEngine(), GREEDY)
    assert judge.compare([]) == {"differing": 0.0, "margin": 0.0, "error": 0.0}
    assert judge.compare([story((1, -0.5), (2, -9.0))]) == {"differing": 1.0, "margin": 0.25, "error": 0.0}
    assert judge.compare([story((1, -0.5))])["margin"] == 0.25
    with pytest.raises(BenchError, match=r"0\.25 less likely"):
        judge.compare([story((1, -0.5))])


def test_the_error_of_earlier_rounds_counts() -> None:
    judge = BatchInvarianceCheck(LoneEngine(), GREEDY)
    judge.compare([story((1, -0.25))])
    assert judge.compare([story((2, -0.5))]) == {"differing": 1.0, "margin": 0.25, "error": 0.25}
    assert judge.compare([story((1, -0.5))])["error"] == 0.25


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (LoneEngine(room=1), r"wrote 1 of 2 tokens \(length\)"),
        (LoneEngine(error="out of paper"), "The engine failed: out of paper"),
    ],
)
def test_a_story_that_cannot_be_written_again_is_said(engine: LoneEngine, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        BatchInvarianceCheck(engine, GREEDY).compare([story((1, -0.5), (1, -0.5))])


@pytest.mark.parametrize(("written", "chosen"), [(1, 1), (5, 5), (30, 8)])
def test_few_stories_of_a_round_are_compared_but_at_least_one(written: int, chosen: int) -> None:
    stories = [story(*[(1, -0.5)] * (number + 1)) for number in range(written)]
    found: Sequence[Completion] = choose_completions(Round(completions=stories))
    assert len({len(one.tokens) for one in found}) == len(found) == chosen
    assert found == choose_completions(Round(completions=stories))
