"""Test stories with banned phrases: none appears, shown text is never taken back, guarantees hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from jet.api import Request, RequestError, SamplingParams, TokenChunk
from jet.engine import banned as banned_module
from jet.engine.engine import LocalEngine
from jet.engine.model_runner import ModelRunner
from jet.engine.stream import LocalStream
from jet.modeling import JetNemotronForCausalLM
from tests.engine.ahead import AheadDecoder, decoding_ahead
from tests.engine.test_healed_stories import CUTS, GREEDY, SAMPLED, SAMPLINGS, make_engine, make_model
from tests.engine.text.test_banned_phrases import begins

Story = tuple[str, tuple[int, ...], str]


@pytest.fixture(scope="module")
def model() -> JetNemotronForCausalLM:
    return make_model()


@pytest.fixture(scope="module", params=[False, True], ids=["step by step", "steps ahead"])
def ahead(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(scope="module")
def engine(model: JetNemotronForCausalLM, ahead: bool) -> Iterator[LocalEngine]:
    with decoding_ahead(ahead):
        engine = make_engine(model)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def fresh(model: JetNemotronForCausalLM) -> Iterator[LocalEngine]:
    """Yield an engine that writes one story at a time."""
    engine = make_engine(model, writers=1)
    yield engine
    engine.close()


def submit(
    engine: LocalEngine, prompt: str, sampling: SamplingParams, banned: tuple[str, ...] = (), **more: object
) -> LocalStream:
    given = {"healing": True, **more}
    return engine.submit(Request(prompt, sampling, banned=banned, **given))  # type: ignore[arg-type]


def finish(stream: LocalStream) -> Story:
    chunks: list[TokenChunk] = list(stream)
    stats = chunks[-1].stats
    assert stats.error is None, stats.error
    ids = tuple(token for chunk in chunks for token in chunk.token_ids)
    assert stats.tokens == len(ids)
    assert stats.finish_reason is not None
    return "".join(chunk.text for chunk in chunks), ids, stats.finish_reason


def tempting(
    engine: LocalEngine, prompt: str, sampling: SamplingParams, healing: bool = True
) -> tuple[str, ...]:
    """Return phrases that this story would contain: single words, pairs of words, and its first word."""
    text, _, _ = finish(submit(engine, prompt, sampling, healing=healing))
    words = re.findall(r"[^\W_]+", text)
    return (*words[2::3], *(" ".join(words[at : at + 2]) for at in range(0, len(words) - 1, 3)), *words[:1])


def requests(engine: LocalEngine) -> Iterator[tuple[str, SamplingParams, tuple[str, ...]]]:
    for number, prompt in enumerate(CUTS):
        sampling = replace(SAMPLINGS[number % 4], max_new_tokens=14 + number, seed=number)
        yield prompt, sampling, tempting(engine, prompt, sampling)


def test_no_phrase_appears_and_together_is_as_alone(engine: LocalEngine, fresh: LocalEngine) -> None:
    changed = 0
    found = list(requests(fresh))
    streams = [submit(engine, *one) for one in found]
    # Neighbours without banned phrases.
    plain = [submit(engine, prompt, sampling) for prompt, sampling, _ in found[:2]]
    stories = [finish(stream) for stream in streams]
    for one, story in zip(found, stories, strict=True):
        prompt, sampling, phrases = one
        text, ids, reason = story
        assert begins(list(phrases), text, before=fresh.normalize_prompt(prompt)) is None
        assert len(ids) == sampling.max_new_tokens or reason in ("stop", "banned")
        changed += story != finish(submit(fresh, prompt, sampling))
        assert story == finish(submit(fresh, *one)), "alone, and again with the same seed"
    assert changed >= 6, "the phrases would have come"
    assert [finish(stream) for stream in plain] == [
        finish(submit(fresh, prompt, sampling)) for prompt, sampling, _ in found[:2]
    ]


def test_steps_are_launched_ahead(engine: LocalEngine, ahead: bool) -> None:
    finish(submit(engine, CUTS[0], replace(GREEDY, max_new_tokens=40), ("zebra",)))
    decoder = engine._runner._decoder
    assert isinstance(decoder, AheadDecoder) == ahead
    assert not isinstance(decoder, AheadDecoder) or decoder.launched_ahead > 30


def test_no_phrase_comes_about_at_a_border_a_stop_string_or_the_end(
    fresh: LocalEngine, engine: LocalEngine
) -> None:
    for seed in range(6):
        sampling = replace(SAMPLED, max_new_tokens=10, seed=seed)
        text, _, _ = finish(submit(fresh, "the old ligh", sampling))
        first = re.match(r"[^\W_]+", text)
        border = (f"ligh{first.group()}" if first else "ligh",)
        assert (
            begins(list(border), finish(submit(engine, "the old ligh", sampling, border))[0], "the old ligh")
            is None
        )
        word = re.findall(r"[^\W_]{2,}", text)[-1]
        cut = (word[:-1],), (word[-1],)
        found = finish(submit(engine, "the old ligh", sampling, cut[0], stop_strings=cut[1]))[0]
        shown = found.split(word[-1])[0]
        assert begins(list(cut[0]), shown, "the old ligh") is None
        ends = (f"{word}*",)
        for most in range(1, 10):
            short = replace(sampling, max_new_tokens=most)
            assert (
                begins(list(ends), finish(submit(engine, "the old ligh", short, ends))[0], "the old ligh")
                is None
            )


def test_where_every_word_is_banned_the_story_ends_before_the_first(engine: LocalEngine) -> None:
    letters = tuple(f"{letter}*" for letter in "abcdefghijklmnopqrstuvwxyz0123456789æøå")
    signs = tuple(chr(code) for code in range(128) if not chr(code).isalnum() and chr(code) != " ")
    for prompt in ("The old", "a"):
        for sampling in SAMPLINGS:
            banned = (*letters, *signs, *"\N{REPLACEMENT CHARACTER}“”‘’→日")
            request = Request(prompt, sampling, banned=banned, min_tokens=400, healing=True)
            chunks = list(engine.submit(request))
            text = "".join(chunk.text for chunk in chunks)
            assert chunks[-1].stats.finish_reason == "banned"
            assert not text.strip()


def test_of_a_border_that_can_only_be_written_in_a_banned_way_the_story_ends_at_once(
    engine: LocalEngine,
) -> None:
    text, ids, reason = finish(submit(engine, "there liv", GREEDY, ("liv*",)))
    assert (text, ids, reason) == ("", (), "banned") or begins(["liv*"], text, "there liv") is None


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_place_that_fails_too_often_ends_the_story_before_the_phrase(
    engine: LocalEngine, attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(banned_module, "MAX_ATTEMPTS", attempts)
    reasons = set()
    for seed in range(12):
        sampling = replace(SAMPLED, max_new_tokens=30, seed=seed)
        banned = tuple(f"{letter}*" for letter in "aeinoskltd")
        text, _, reason = finish(submit(engine, "the sea and ", sampling, banned))
        assert begins(list(banned), text, "the sea and ") is None
        reasons.add(reason)
    assert "banned" in reasons


def test_where_no_state_is_left_the_prompt_is_read_again_and_the_story_is_the_same(
    model: JetNemotronForCausalLM, fresh: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelRunner, "mark", lambda self, sequence, *_: self._rollback.drop_all(sequence))
    engine = make_engine(model, writers=4, kept=0)
    try:
        for one in requests(fresh):
            assert finish(submit(engine, *one)) == finish(submit(fresh, *one))
        assert engine._runner.pages_in_use == 0
    finally:
        engine.close()


def test_a_failed_step_in_the_midst_of_it_changes_nothing(
    model: JetNemotronForCausalLM, fresh: LocalEngine
) -> None:
    found = list(requests(fresh))[:4]
    expected = [finish(submit(fresh, *one)) for one in found]
    for fails in range(3, 30, 4):
        engine = make_engine(model, writers=4)
        runner = engine._runner
        decode, calls = runner.decode, 0

        def failing(handles: list[object], fails: int = fails, decode: object = decode) -> object:
            nonlocal calls
            calls += 1
            if calls == fails and len(handles) > 1:
                decode(handles)  # type: ignore[operator]
                raise RuntimeError("a kernel has failed")
            return decode(handles)  # type: ignore[operator]

        runner.decode = failing  # type: ignore[method-assign]
        streams = [submit(engine, *one) for one in found]
        assert [finish(stream) for stream in streams] == expected
        engine.close()


def test_stopped_and_gone_on_with_and_in_branches(engine: LocalEngine, fresh: LocalEngine) -> None:
    for prompt, sampling, phrases in requests(fresh):
        long = replace(sampling, max_new_tokens=40)
        stream = submit(engine, prompt, long, phrases, cache_salt="ann")
        text = ""
        for number, chunk in enumerate(stream):
            text += chunk.text
            if number == 6:
                stream.abort()
        before = fresh.normalize_prompt(prompt)
        assert begins(list(phrases), text, before) is None, "also where it was stopped"
        branches = [replace(sampling, seed=seed) for seed in (5, 5, 6)]
        streams = [submit(engine, prompt + text, one, phrases, cache_salt="ann") for one in branches]
        stories = [finish(one) for one in streams]
        assert stories[0] == stories[1]
        expected = [finish(submit(fresh, prompt + text, one, phrases)) for one in branches]
        assert stories == expected
    assert engine._runner.pages_in_use == 0
    marks = [salt for salt in engine._runner._prefix_cache._by_salt if salt.startswith("\0")]
    assert not marks, "no mark stays behind"


def test_token_ids_logprobs_and_a_limit_of_tokens_go_with_it(engine: LocalEngine, fresh: LocalEngine) -> None:
    ids = tuple(fresh._tokenizer.encode("the old man", 100).tolist())
    for seed in range(4):
        sampling = replace(SAMPLED, max_new_tokens=20, seed=seed)
        phrases = tempting(fresh, "the old man", sampling, healing=False)
        request = Request("", sampling, 2, prompt_ids=ids, banned=(*phrases, "man*"))
        chunks = list(engine.submit(request))
        details = [detail for chunk in chunks for detail in chunk.logprobs]
        drawn = [token for chunk in chunks for token in chunk.token_ids]
        assert [detail.sampled.token_id for detail in details] == drawn
        text = "".join(chunk.text for chunk in chunks)
        assert begins([*phrases, "man*"], text, "the old man") is None
        for chunk in chunks:
            assert len(chunk.logprobs) == len(chunk.token_ids)


def test_what_cannot_be_banned_is_said() -> None:
    with pytest.raises(RequestError, match="list of texts"):
        Request("a", banned="testament")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="At most 1,000"):
        Request("a", banned=("a",) * 1001)
    with pytest.raises(RequestError, match="200 characters"):
        Request("a", banned=("a" * 201,))
    with pytest.raises(RequestError, match="20,000 characters"):
        Request("a", banned=("a" * 200,) * 101)


def test_a_phrase_with_nothing_in_it_is_refused_when_it_is_sent(fresh: LocalEngine) -> None:
    with pytest.raises(RequestError, match="nothing in it"):
        fresh.submit(Request("a", banned=(" ",)))
