"""Test tokens of prompts: any text is plain text, the tokenizer decides how it starts, size is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers, processors
from transformers import GenerationConfig, PreTrainedConfig

from jet.api import RequestError
from jet.engine.text.tokenizer import StoryTokenizer, start_id, stop_ids
from tests.engine.small_tokenizers import END, TURN_END, as_transformers, byte_level, metaspace

BYTE_LEVEL, NFC = byte_level(), byte_level(normalizers.NFC())
LOTS = 10**6


def ids_of(tokenizer: StoryTokenizer, text: str, most: int = LOTS) -> list[int]:
    return tokenizer.encode(text, most).tolist()


def story_tokenizer(tokenizer: Tokenizer = BYTE_LEVEL, **settings: object) -> StoryTokenizer:
    return StoryTokenizer(as_transformers(tokenizer, **settings), start_id=0, stop_ids=frozenset({0}))


def back(tokenizer: StoryTokenizer, tokens: list[int]) -> str:
    detokenizer = tokenizer.detokenizer(())
    return "".join(map(detokenizer.push, tokens)) + detokenizer.flush()


def joined(*parts: str) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(parts), max_size=10).map("".join)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | joined("a", " ", END, TURN_END, "<note>", "\0"))
def test_any_text_comes_back(text: str) -> None:
    tokenizer = story_tokenizer()
    tokens = ids_of(tokenizer, text or "x")
    assert back(tokenizer, tokens) == (text or "x")
    assert 0 not in tokens


@pytest.mark.parametrize(
    "text",
    [
        END,
        f"a{END}b",
        TURN_END,
        f"{TURN_END} {END}",
        "nul \0 byte",
        "👩‍👩‍👧 🏳️‍🌈",
        "שלום, مرحبا",
        "\u202eright to left",
        " ",
        "\n\n",
    ],
    ids=ascii,
)
def test_hostile_text_is_plain_text(text: str) -> None:
    tokenizer = story_tokenizer()
    tokens = ids_of(tokenizer, text)
    special = {0, BYTE_LEVEL.token_to_id(TURN_END)}
    assert not special & set(tokens)
    assert back(tokenizer, tokens) == text


def test_without_a_bos_token_only_an_empty_prompt_gets_a_start() -> None:
    tokenizer = story_tokenizer()
    assert tokenizer.start == ()
    assert ids_of(tokenizer, "") == [0]
    assert ids_of(tokenizer, "the") == BYTE_LEVEL.encode("the").ids


def templated() -> Tokenizer:
    copy = Tokenizer.from_str(BYTE_LEVEL.to_str())
    copy.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    return copy


@pytest.mark.parametrize(
    ("tokenizer", "settings"),
    [
        (BYTE_LEVEL, {"bos_token": END}),
        (BYTE_LEVEL, {"bos_token": END, "add_bos_token": True}),
        (templated(), {}),
    ],
    ids=["bos_token", "add_bos_token", "template"],
)
def test_a_document_start_stands_in_front_of_every_prompt(
    tokenizer: Tokenizer, settings: dict[str, object]
) -> None:
    ours = story_tokenizer(tokenizer, **settings)
    assert ours.start == (0,)
    assert ids_of(ours, "") == [0]
    assert ids_of(ours, "the") == [0, *BYTE_LEVEL.encode("the").ids]


def test_add_bos_token_false_is_heard() -> None:
    assert story_tokenizer(bos_token=END, add_bos_token=False).start == ()


def test_an_end_in_the_template_is_no_start() -> None:
    copy = Tokenizer.from_str(BYTE_LEVEL.to_str())
    copy.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 0)])
    assert ids_of(story_tokenizer(copy), "the") == BYTE_LEVEL.encode("the").ids


def test_an_empty_prompt_needs_a_start_from_somewhere() -> None:
    tokenizer = StoryTokenizer(as_transformers(BYTE_LEVEL), start_id=None, stop_ids=frozenset())
    with pytest.raises(RequestError, match="type a beginning"):
        tokenizer.encode("", LOTS)


def test_a_prompt_that_is_too_long_says_how_long_it_is() -> None:
    tokenizer = story_tokenizer(bos_token=END)
    text = "the sea " * 20
    count = len(BYTE_LEVEL.encode(text).ids)
    assert len(tokenizer.encode(text, count + 1)) == count + 1
    with pytest.raises(RequestError, match=f"has {count} tokens, and {count - 1} tokens fit"):
        tokenizer.encode(text, count)


@pytest.mark.parametrize(
    ("backend", "said"),
    [(BYTE_LEVEL, r"at least [0-9,]+ tokens"), (metaspace(), "10,000,000 characters")],
    ids=["byte_level", "metaspace"],
)
@pytest.mark.parametrize("character", [" ", "a", "é", "\0", "\n"], ids=ascii)
def test_ten_megabytes_are_refused_at_once(
    character: str, backend: Tokenizer, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = story_tokenizer(backend)
    monkeypatch.setattr(tokenizer, "_backend", NoEncoding(tokenizer._backend))
    with pytest.raises(RequestError, match=f"it has {said}, and 4,096 tokens fit"):
        tokenizer.encode(character * 10_000_000, 4096)


class NoEncoding:
    def __init__(self, backend: Tokenizer) -> None:
        self.normalizer = backend.normalizer


@pytest.mark.parametrize("backend", [BYTE_LEVEL, NFC, metaspace()], ids=["plain", "nfc", "metaspace"])
@settings(max_examples=150, deadline=None)
@given(
    joined("the ", "sea", " ", "  ", "\n", "a", ".", "e\u0301", "\u1112\u1161\u11ab", "→日本", "lighthouse")
)
def test_whatever_fits_is_taken(backend: Tokenizer, text: str) -> None:
    """Check that the quick checks of size refuse no text that fits."""
    tokenizer = story_tokenizer(backend)
    ids = backend.encode(text, add_special_tokens=False).ids
    if ids:
        assert ids_of(tokenizer, text, len(ids)) == ids


def test_half_a_character_is_refused() -> None:
    with pytest.raises(RequestError, match="position 2"):
        story_tokenizer().encode("ab\ud800", LOTS)


def test_what_is_not_text_is_refused() -> None:
    with pytest.raises(RequestError, match="not NoneType"):
        story_tokenizer().encode(None, LOTS)  # type: ignore[arg-type]


def test_a_panic_in_the_tokenizer_is_an_error_of_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a panic, as Qwen's regular expressions have on millions of spaces.

    Its type is not an Exception and cannot be imported.
    """

    class PanicException(BaseException):
        pass

    class Panicking(NoEncoding):
        def encode_batch_fast(self, *arguments: object, **options: object) -> None:
            raise PanicException("Regex search error: retry-limit-in-match over")

    tokenizer = story_tokenizer()
    monkeypatch.setattr(tokenizer, "_backend", Panicking(tokenizer._backend))
    with pytest.raises(RequestError, match="cannot read this prompt: Regex"):
        tokenizer.encode("a", LOTS)


def test_every_end_is_a_stop() -> None:
    tokenizer = as_transformers(BYTE_LEVEL)
    turn_end = BYTE_LEVEL.token_to_id(TURN_END)
    assert stop_ids(tokenizer) == {0, turn_end}
    configs = (GenerationConfig(eos_token_id=[5, 6]), PreTrainedConfig(eos_token_id=7))
    assert stop_ids(tokenizer, *configs) == {0, 5, 6, 7, turn_end}
    assert stop_ids(as_transformers(metaspace()), PreTrainedConfig()) == {1}


def test_the_start_is_bos_before_eos_and_the_tokenizers_before_the_configs() -> None:
    plain, with_bos = as_transformers(BYTE_LEVEL), as_transformers(BYTE_LEVEL, bos_token="<note>")
    assert start_id(with_bos, PreTrainedConfig(bos_token_id=9)) == BYTE_LEVEL.token_to_id("<note>")
    assert start_id(plain, PreTrainedConfig(bos_token_id=9, eos_token_id=8)) == 9
    assert start_id(plain, PreTrainedConfig(eos_token_id=8)) == 0
    plain.eos_token = None
    assert start_id(plain, PreTrainedConfig(eos_token_id=[8, 9])) == 8
    assert start_id(plain, PreTrainedConfig()) is None


def test_added_tokens_that_are_not_special_are_text() -> None:
    copy = Tokenizer.from_str(BYTE_LEVEL.to_str())
    copy.add_tokens([AddedToken("<tool_call>", special=False)])
    tokenizer = story_tokenizer(copy)
    assert back(tokenizer, ids_of(tokenizer, "a <tool_call> b")) == "a <tool_call> b"
