"""Test that detokenizing token by token gives the same text as decoding all tokens at once."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from jet.engine.text.detokenizer import make_detokenizer, token_bytes
from tests.engine.small_tokenizers import END, KINDS, as_transformers

each_kind = pytest.mark.parametrize("kind", KINDS)


def pieces(tokenizer: Tokenizer, tokens: Sequence[int], prompt: Sequence[int] = ()) -> list[str]:
    detokenizer = make_detokenizer(tokenizer, prompt)
    return [*(detokenizer.push(token) for token in tokens), detokenizer.flush()]


def decode(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """Decode tokens as transformers does."""
    text = as_transformers(tokenizer).decode(
        list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    assert isinstance(text, str)
    return text


@each_kind
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_random_tokens(kind: str, data: st.DataObject) -> None:
    """Draw partial characters, bytes that are no text, special tokens, and tokens that do not exist."""
    tokenizer = KINDS[kind]
    tokens = data.draw(st.lists(st.integers(0, tokenizer.get_vocab_size() + 3), max_size=40))
    assert "".join(pieces(tokenizer, tokens)) == decode(tokenizer, tokens)


@each_kind
@settings(max_examples=150, deadline=None)
@given(prompt=st.text(max_size=20), text=st.text(max_size=40))
def test_random_text_after_a_random_prompt(kind: str, prompt: str, text: str) -> None:
    tokenizer = KINDS[kind]
    before, tokens = (tokenizer.encode(part, add_special_tokens=False).ids for part in (prompt, text))
    whole, start = decode(tokenizer, [*before, *tokens]), decode(tokenizer, before)
    if not whole.startswith(start):
        return  # tokens that change earlier text, which has been sent already
    assert "".join(pieces(tokenizer, tokens, before)) == whole[len(start) :]


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece", "nested_byte_level"])
@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet=st.sampled_from("aé ש日👩‍🚀🏽\n\0�"), max_size=30))
def test_no_piece_holds_half_a_character(kind: str, text: str) -> None:
    tokenizer = KINDS[kind]
    out = pieces(tokenizer, tokenizer.encode(text, add_special_tokens=False).ids)
    assert "".join(out) == text
    assert sum(piece.count("\N{REPLACEMENT CHARACTER}") for piece in out) == text.count("�")


def test_text_comes_with_its_last_byte_and_not_later() -> None:
    tokenizer = KINDS["byte_level"]
    tokens = [tokenizer.token_to_id(character) for character in "ðŁļĢ"]  # 🚀, byte by byte
    assert pieces(tokenizer, tokens) == ["", "", "", "🚀", ""]
    assert pieces(tokenizer, tokens[:2]) == ["", "", "\N{REPLACEMENT CHARACTER}"]


def test_a_leading_space_is_dropped_at_the_very_start_only() -> None:
    tokenizer = KINDS["sentencepiece"]
    the, old = tokenizer.token_to_id("▁the"), tokenizer.token_to_id("▁old")
    assert pieces(tokenizer, [the, old]) == ["the", " old", ""]
    assert pieces(tokenizer, [the, old], prompt=[old]) == [" the", " old", ""]
    assert pieces(tokenizer, [the], prompt=[old, tokenizer.token_to_id("</s>")]) == [" the", ""]


def test_a_run_of_byte_tokens_waits_for_its_end() -> None:
    tokenizer = KINDS["sentencepiece"]
    euro = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "€".encode()]
    old = tokenizer.token_to_id("▁old")
    assert pieces(tokenizer, [*euro, old]) == ["", "", "", "€ old", ""]
    assert pieces(tokenizer, [old, *euro]) == ["old", "", "", "", "€"]


@each_kind
def test_special_tokens_are_silent(kind: str) -> None:
    tokenizer = KINDS[kind]
    special = [token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special]
    assert special
    assert "".join(pieces(tokenizer, special)) == ""


def test_tokens_beyond_the_tokenizer_are_silent() -> None:
    assert token_bytes(KINDS["byte_level"], 100_000) == b""
    assert pieces(KINDS["metaspace"], [100_000]) == ["", ""]


@each_kind
@pytest.mark.parametrize("what", ["text", "one special token", "one byte"])
def test_the_cost_of_a_token_does_not_grow(kind: str, what: str) -> None:
    tokenizer = KINDS[kind]
    names = {"text": "e", "one special token": END, "one byte": "<0x80>"}
    token = tokenizer.token_to_id(names[what])
    if token is None:
        token = tokenizer.token_to_id("e")
    detokenizer = make_detokenizer(tokenizer)

    def seconds(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            detokenizer.push(token)
        return time.perf_counter() - started

    early = min(seconds(500) for _ in range(4))
    seconds(10_000)
    late = min(seconds(500) for _ in range(4))
    assert late < 5 * early + 1e-3
