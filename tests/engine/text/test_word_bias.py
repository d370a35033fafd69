"""Test biases of words: the spellings of a word, and which token gets which bias at which place."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jet.api import Request, RequestError, SamplingParams
from jet.engine.engine import LocalEngine
from jet.engine.text.word_bias import biased_sequences, biases_now, spellings
from tests.engine.fakes import FakeRunner, text_of
from tests.engine.fakes import make_engine as make_fake_engine
from tests.engine.test_healed_stories import make_engine, make_model

IDS = {" moon": [1], "moon": [2, 3], " Moon": [4], "Moon": [5, 3], "moonlit night": [2, 3, 6, 7]}


def test_a_word_has_four_spellings_and_one_with_a_blank_only_its_own() -> None:
    assert spellings("moon") == [" moon", "moon", " Moon", "Moon"]
    assert spellings(" moon") == [" moon"] and spellings("\n") == ["\n"]


def test_a_barred_word_is_barred_where_its_last_token_would_come() -> None:
    sequences = biased_sequences([("moon", -100.0)], IDS.__getitem__)
    assert biases_now(sequences, []) == {1: -100.0, 4: -100.0}
    assert biases_now(sequences, [9, 2]) == {1: -100.0, 4: -100.0, 3: -100.0}
    assert biases_now(sequences, [2, 9]) == {1: -100.0, 4: -100.0}


def test_a_favored_word_is_favored_from_its_first_token_on() -> None:
    sequences = biased_sequences([("moon", 4.0)], IDS.__getitem__)
    assert biases_now(sequences, []) == {1: 4.0, 2: 2.0, 4: 4.0, 5: 2.0}
    assert biases_now(sequences, [5])[3] == 2.0


def test_a_word_without_tokens_is_refused() -> None:
    with pytest.raises(RequestError, match="no tokens"):
        biased_sequences([("moon", 1.0)], lambda text: [])
    with pytest.raises(RequestError, match="characters"):
        Request("a", word_bias=(("", 1.0),))
    with pytest.raises(RequestError, match="word_bias"):
        Request("a", word_bias=(("moon", 101.0),))


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    engine = make_engine(make_model())
    yield engine
    engine.close()


def test_a_barred_word_never_comes_and_a_favored_one_does(engine: LocalEngine) -> None:
    sampling = SamplingParams(1.0, 1.0, 0, 0.0, 1.0, max_new_tokens=80, seed=3)
    ids_of, free = engine.tokenizer.ids_of, 0
    for word in ("the", "a", "and"):
        spelled = [ids for ids, _ in biased_sequences([(word, -100.0)], lambda text: ids_of(text))]
        counts = []
        for bias in (0.0, -100.0):
            chunks = list(engine.submit(Request("Once upon", sampling, word_bias=((word, bias),))))
            drawn = tuple(token for chunk in chunks for token in chunk.token_ids)
            places = range(len(drawn))
            counts.append(sum(drawn[at : at + len(ids)] == ids for ids in spelled for at in places))
        free += counts[0]
        assert counts[1] == 0
    assert free > 0
    favored = Request("Once upon", sampling, word_bias=(("qz", 60.0),))
    assert text_of(list(engine.submit(favored))).lower().count("qz") > 5


def test_a_token_that_begins_a_text_is_barred_while_none_may_end() -> None:
    runner = FakeRunner()
    engine = make_fake_engine(runner)
    forbidden: list[tuple[tuple[int, ...], int]] = []
    runner.set_min_tokens = lambda sequence, tokens: None  # type: ignore[attr-defined]
    runner.forbid = lambda sequence, ids, steps: forbidden.append((ids, steps))  # type: ignore[attr-defined]
    engine._starting_tokens = frozenset({7})
    try:
        list(engine.submit(Request("a", SamplingParams(max_new_tokens=4), min_tokens=40)))
        list(engine.submit(Request("a", SamplingParams(max_new_tokens=4))))
    finally:
        engine.close()
    assert forbidden == [((7,), 40)]
