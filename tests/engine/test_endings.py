"""Test answers that continue to the end of a sentence, from local and remote engines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jet.api import Request, RequestStats, SamplingParams, TokenChunk
from jet.engine.remote.client import RemoteConfig, RemoteEngine, RemoteOptions
from jet.engine.text.ending import OVERRUN_TOKENS
from tests.engine.fakes import FakeRunner, make_engine, text_of
from tests.engine.faulty_server import Answer, FaultyServer, faulty_server
from tests.engine.test_healed_stories import make_engine as make_small_engine
from tests.engine.test_healed_stories import make_model

DIALOGUE = '"Stop!" he said. "No!" She ran. He did too, and on and on and on and on and on they went.'


def answer(story: str, tokens: int, end_at: str = "sentence", context: int = 200) -> list[TokenChunk]:
    engine = make_engine(FakeRunner(story=lambda name: story), context=context)
    try:
        sampling = SamplingParams(max_new_tokens=tokens, end_at=end_at)
        return list(engine.submit(Request("a\n", sampling)))
    finally:
        engine.close()


def final(chunks: list[TokenChunk]) -> RequestStats:
    return chunks[-1].stats


@pytest.mark.parametrize("tokens", range(1, 33, 3))
def test_an_answer_ends_at_the_first_sentence_past_its_length(tokens: int) -> None:
    chunks = answer(DIALOGUE, tokens)
    ends = [len('"Stop!" he said.'), len('"Stop!" he said. "No!"'), len('"Stop!" he said. "No!" She ran.')]
    assert len(text_of(chunks).rstrip()) == next(end for end in ends if end >= tokens - 1)
    assert final(chunks).finish_reason == "length" and not final(chunks).unfinished
    assert final(chunks).tokens <= tokens + OVERRUN_TOKENS
    assert sum(len(chunk.token_ids) for chunk in chunks) == final(chunks).tokens


def test_an_answer_that_does_not_end_names_what_is_to_be_cut() -> None:
    chunks = answer(DIALOGUE, 40)
    text = text_of(chunks)
    assert final(chunks).tokens == 40 + OVERRUN_TOKENS == len(text)
    assert text.removesuffix(final(chunks).unfinished) == '"Stop!" he said. "No!" She ran.'


@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_off_is_exact(tokens: int) -> None:
    chunks = answer(DIALOGUE, tokens, "none")
    assert text_of(chunks) == DIALOGUE[:tokens] and not final(chunks).unfinished


def test_the_end_of_the_context_is_kept() -> None:
    chunks = answer(DIALOGUE, 100, context=42)
    assert final(chunks).finish_reason == "context" and final(chunks).tokens == 40
    assert text_of(chunks).removesuffix(final(chunks).unfinished) == '"Stop!" he said. "No!" She ran.'


def test_half_a_character_behind_the_end_is_not_shown() -> None:
    assert text_of(answer("走了。走了。", 5)) == "走了。"


def test_the_models_own_end_is_no_cut() -> None:
    chunks = answer("He ran. And then", 5)
    assert text_of(chunks) == "He ran. And then"[:7]
    chunks = answer("He ran. And then", 9)
    assert text_of(chunks) == "He ran. And then" and final(chunks).finish_reason == "stop"
    assert not final(chunks).unfinished


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty_server() as server:
        yield server


def ask(server: FaultyServer, *words: str, tokens: int = 2) -> list[TokenChunk]:
    def tell(reply: Answer) -> None:
        reply.head()
        for word in words:
            reply.word(word)
        reply.done("length", tokens=len(words))

    server.answer(tell)
    engine = RemoteEngine(RemoteConfig(server.url), RemoteOptions(connect_s=2.0, first_token_s=2.0))
    try:
        sampling = SamplingParams(1.0, 1.0, 0, 0.0, 1.0, max_new_tokens=tokens, end_at="sentence")
        return list(engine.submit(Request("Once", sampling)))
    finally:
        engine.close()


def test_a_remote_answer_ends_at_its_sentence_too(server: FaultyServer) -> None:
    chunks = ask(server, " he", " ran", ".", " She", " did", ".", " So")
    assert text_of(chunks) == " he ran." and final(chunks).finish_reason == "length"


def test_a_remote_answer_that_does_not_end_names_what_is_to_be_cut(server: FaultyServer) -> None:
    chunks = ask(server, " he", ".", " And", *[" on"] * OVERRUN_TOKENS, tokens=3)
    assert text_of(chunks).removesuffix(final(chunks).unfinished) == " he."
    assert final(chunks).unfinished.startswith(" And on") and final(chunks).finish_reason == "length"


def test_an_answer_with_banned_phrases_ends_like_one_without() -> None:
    engine = make_small_engine(make_model())
    try:
        for seed in range(12):
            sampling = SamplingParams(1.5, 1.0, 0, 0.0, 1.0, max_new_tokens=12, seed=seed, end_at="sentence")
            bias = tuple((token, 3.0) for token in map(ord, ".! \n"))
            plain, guarded = (
                list(engine.submit(Request("Once. ", sampling, logit_bias=bias, banned=banned)))
                for banned in ((), ("never to be seen",))
            )
            assert text_of(guarded) == text_of(plain)
            assert final(guarded).unfinished == final(plain).unfinished
            assert final(guarded).finish_reason == final(plain).finish_reason
            assert final(guarded).tokens <= 12 + OVERRUN_TOKENS
    finally:
        engine.close()
