"""Test tokenizing in pieces and from remembered text: exactly the tokens of the whole text."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from transformers import AutoTokenizer
from transformers.models.qwen2 import tokenization_qwen2

from jet.engine.text import incremental
from jet.engine.text.incremental import IncrementalTokenizer, can_be_split
from tests.conftest import ROOT
from tests.engine.small_tokenizers import END, KINDS, byte_level


def like_qwen() -> Tokenizer:
    """Return a small tokenizer that splits words as Qwen's does."""
    tokenizer = byte_level(normalizers.NFC())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(tokenization_qwen2.PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def shipped() -> Tokenizer:
    """Return the story model's tokenizer."""
    return AutoTokenizer.from_pretrained(ROOT / "assets" / "story-model").backend_tokenizer


BACKENDS = {
    "plain": byte_level(),
    "nfc": byte_level(normalizers.NFC()),
    "like qwen": like_qwen(),
    "shipped": shipped(),
    **{name: Tokenizer.from_str(KINDS[name].to_str()) for name in ("sentencepiece", "metaspace")},
}
for backend in BACKENDS.values():
    backend.encode_special_tokens = True

# What expressions and normal forms could stumble over, at every seam.
BITS = [
    " ", "  ", "\n", "\r\n", "\r", "\t", "\u00a0", "\u3000", "\u2028", "\x1c", "\x85", "\u200d",
    "a", "The", "sea", "'s", "’ll", "'LL", "'", "’", ".", ". ", "...", "!?", "”", "(", "7", "1984", "½",
    "é", "e\u0301", "\u0301", "\u1112\u1161\u11ab", "\u11ab", "가", "日本", "か\u3099", "。", "，", "：",
    "→日本",
    "שלום", "नमस्ते", "\N{DRAGON}", "\U00011f04", END, "<note>", "<|tale|>", "\0", "ſ",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(BITS) | st.text(max_size=3), max_size=25).map("".join)


def incremental_of(backend: Tokenizer, **given: int) -> IncrementalTokenizer:
    def encode(texts: list[str]) -> list[list[int]]:
        return [one.ids for one in backend.encode_batch_fast(texts, add_special_tokens=False)]

    return IncrementalTokenizer(backend, encode, **given)


def whole(backend: Tokenizer, text: str) -> list[int]:
    ids: list[int] = backend.encode(text, add_special_tokens=False).ids
    return ids


@pytest.mark.parametrize("name", BACKENDS)
@settings(max_examples=100, deadline=None)
@given(text=TEXTS, edits=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 9), TEXTS), max_size=6))
def test_after_any_edits_the_tokens_are_those_of_the_whole_text(
    name: str, text: str, edits: list[tuple[int, int, str]]
) -> None:
    backend = BACKENDS[name]
    with mock.patch.object(incremental, "SEGMENT", 3):
        tokenizer = incremental_of(backend)
        assert tokenizer.ids(text, "ann").tolist() == whole(backend, text)
        for place, taken, put in edits:
            place %= len(text) + 1
            text = text[:place] + put + text[place + taken :]
            assert tokenizer.ids(text, "ann").tolist() == whole(backend, text)
            check_places(backend, tokenizer)


def check_places(backend: Tokenizer, tokenizer: IncrementalTokenizer) -> None:
    """Check that tokenizing a remembered text up to each of its cuts gives the remembered tokens."""
    for read in tokenizer._remembered:
        assert read.cuts[0] == 0 and read.cuts[-1] == len(read.text)
        assert read.counts[-1] == len(read.ids)
        for cut, count in zip(read.cuts, read.counts, strict=True):
            assert read.ids[:count].tolist() == whole(backend, read.text[:cut])


STORY = "The old keeper opened the door, and the sea came in. “Who is there?” he asked.\n\n" * 200


class Counting:
    """Encodes texts, and counts their characters."""

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self.characters = 0

    def __call__(self, texts: list[str]) -> list[list[int]]:
        self.characters += sum(map(len, texts))
        return [one.ids for one in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    def of(self, tokenizer: IncrementalTokenizer, text: str, user: str = "ann") -> int:
        """Check the ids of a text; return how many characters had to be encoded for it."""
        before = self.characters
        assert tokenizer.ids(text, user).tolist() == whole(self._backend, text)
        return self.characters - before


@pytest.fixture(params=["like qwen", "shipped"])
def counting(request: pytest.FixtureRequest) -> tuple[Counting, IncrementalTokenizer]:
    backend = BACKENDS[request.param]
    encode = Counting(backend)
    return encode, IncrementalTokenizer(backend, encode)


def test_what_is_read_again_is_what_is_new(counting: tuple[Counting, IncrementalTokenizer]) -> None:
    encode, tokenizer = counting
    some = 2 * incremental.SEGMENT + 200
    assert encode.of(tokenizer, STORY) == len(STORY)
    assert encode.of(tokenizer, STORY) == 0, "trying again"
    longer = STORY + "And then? Nothing."
    assert encode.of(tokenizer, longer) < some, "going on"
    assert encode.of(tokenizer, STORY) == 0, "taking back"
    assert encode.of(tokenizer, STORY[:-30]) < some, "taking back what is not remembered"
    edited = longer[:5000] + "Suddenly, " + longer[5000:]
    assert encode.of(tokenizer, edited) < some, "an edit in the middle"
    assert encode.of(tokenizer, "A memory of old times. " + edited) < some, "something in front"
    assert encode.of(tokenizer, longer) < some


def test_a_story_without_spaces_is_split_too(counting: tuple[Counting, IncrementalTokenizer]) -> None:
    encode, tokenizer = counting
    story = "老人打开了门，大海涌了进来。“谁在那里？”他问道。\n" * 500
    encode.of(tokenizer, story)
    assert encode.of(tokenizer, story + "没有人回答。") < 1.1 * incremental.SEGMENT + 100


def test_another_users_texts_are_not_used(counting: tuple[Counting, IncrementalTokenizer]) -> None:
    encode, tokenizer = counting
    encode.of(tokenizer, STORY)
    assert encode.of(tokenizer, STORY, "bob") == len(STORY)
    assert encode.of(tokenizer, STORY, "") == encode.of(tokenizer, STORY, "") == len(STORY)


def test_few_texts_of_each_and_not_too_many_of_all_are_remembered() -> None:
    tokenizer = incremental_of(BACKENDS["plain"], characters=1000)
    for number in range(9):
        tokenizer.ids(f"{number} " * 20, "ann")
    assert len(tokenizer._users["ann"]) == incremental.TEXTS
    assert tokenizer._characters == 40 * incremental.TEXTS
    for number in range(40):
        tokenizer.ids("a b " * 25, f"user {number}")
    assert tokenizer._characters == 1000 and len(tokenizer._users) == 10
    tokenizer.ids("a " * 501, "too long to be remembered")
    assert tokenizer._characters == 0 and not tokenizer._users and not tokenizer._remembered


def test_many_threads_at_once(counting: tuple[Counting, IncrementalTokenizer]) -> None:
    encode, tokenizer = counting
    start = threading.Barrier(8)

    def use(number: int) -> bool:
        start.wait(10)
        texts = [STORY[: 900 * turn + 7 * number] for turn in range(9)]
        return all(
            tokenizer.ids(text, f"user {number % 3}").tolist() == whole(encode._backend, text)
            for text in texts
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(8)))


def test_what_reads_texts_in_another_way_reads_them_whole() -> None:
    assert can_be_split(like_qwen()) and can_be_split(shipped())
    assert not any(map(can_be_split, (KINDS["sentencepiece"], KINDS["metaspace"])))
    for token in ("New York", "end。", AddedToken("x", lstrip=True), AddedToken("x", single_word=True)):
        other = byte_level()
        other.add_tokens([token])
        assert not can_be_split(other)
    other = byte_level(normalizers.NFKC())
    assert not can_be_split(other)
    other = byte_level()
    other.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert not can_be_split(other)
