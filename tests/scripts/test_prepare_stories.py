"""Test the preparation of stories: cleaning, the split, and a lossless tokenizer."""

from __future__ import annotations

import json
import lzma

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from scripts import prepare_stories
from scripts.training.data import read_stories
from tests.scripts.stories import write_stories


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Prepare generated stories once; return the output folder."""
    folder = tmp_path_factory.mktemp("prepared")
    modern = write_stories(folder / "modern.txt", 120, seed=1)
    classics = folder / "classics.txt.xz"
    classics.write_bytes(lzma.compress(write_stories(folder / "plain.txt", 80, seed=2).read_bytes()))
    arguments = [
        str(modern),
        str(classics),
        "--tokenizer",
        str(folder / "tokenizer"),
        "--output",
        str(folder),
    ]
    prepare_stories.main([*arguments, "--vocabulary", "400", "--hold-out", "8"])
    return folder


@pytest.fixture(scope="module")
def tokenizer(prepared):
    return AutoTokenizer.from_pretrained(prepared / "tokenizer")


AWKWARD = ["", "\x00", "a\x00\x00b", "🦊👩‍👩‍👧‍👦", "שלום עולם", "naïve — “quotes” ‘too’",
           " \n\n  two  spaces \t", "x" * 5000,
           "<|endoftext|>", "a<|endoftext|>b", "\r\n", "e\u0301 ﬁ ½"]  # fmt: skip


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_texts_round_trip(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert tokenizer.decode(ids) == text


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_round_trips(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert tokenizer.decode(ids) == text


def test_end_of_text_is_one_token_or_plain_text_as_asked(tokenizer):
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == tokenizer.pad_token_id == 0
    assert tokenizer.encode("<|endoftext|>", add_special_tokens=False) == [0]
    assert tokenizer.encode("<|tale|>", add_special_tokens=False) == [1]
    as_text = tokenizer.encode("<|tale|><|endoftext|>", add_special_tokens=False, split_special_tokens=True)
    assert min(as_text) > 1


def test_every_text_begins_behind_the_end_of_another(tokenizer):
    plain = tokenizer.encode("Once", add_special_tokens=False)
    assert tokenizer.encode("Once") == [0, *plain]


def test_the_vocabulary_has_the_size_asked_for(tokenizer, prepared):
    assert len(tokenizer) <= 400
    assert (
        json.loads((prepared / "tokenizer" / "tokenizer_config.json").read_text())["model_max_length"] == 4096
    )


def test_the_split_is_by_document_and_complete(prepared, tokenizer):
    sets = read_stories(prepared, prepared / "tokenizer")
    assert len(sets["modern_train"]) + len(sets["modern_validation"]) == 120
    assert len(sets["classics_train"]) + len(sets["classics_validation"]) == 80
    texts = {
        name: {tokenizer.decode(stories.document(i)[1:-1].tolist()) for i in range(len(stories))}
        for name, stories in sets.items()
    }
    assert texts["modern_validation"] and not texts["modern_validation"] & texts["modern_train"]
    held_out = (prepared / "modern-validation.txt").read_text().split(prepare_stories.SEPARATOR)
    assert set(held_out) == texts["modern_validation"]
    assert sets["modern_validation"].bytes.sum() == sum(len(text.encode()) for text in held_out)


def test_the_split_does_not_depend_on_the_other_documents():
    documents = [f"story {i}" for i in range(2000)]
    held_out = [d for d in documents if prepare_stories.is_validation(d, 50)]
    assert 20 < len(held_out) < 65
    assert held_out == [d for d in reversed(documents) if prepare_stories.is_validation(d, 50)][::-1]


def test_bodies_begin_behind_title_and_heading(prepared, tokenizer):
    stories = read_stories(prepared, prepared / "tokenizer")["modern_train"]
    for i in range(20):
        body = tokenizer.decode(stories.tokens[stories.bodies[i] : stories.starts[i + 1]].tolist())
        assert body.split()[1:3] == ["went", "to"]


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("Title\r\n\r\nText.  \n\n\n\nMore.\n\nThe End.\n", "Title\n\nText.\n\nMore."),
        ("Sure! Here is a story for you.\n\nThe Cat\n\nIt sat.\n\nEnd", "The Cat\n\nIt sat."),
        ("A\n\nIt ended.\n\n(Word count: 812)", "A\n\nIt ended."),
        ("A\n\nIt ended.\n\nThis short story explores themes of loss.", "A\n\nIt ended."),
        ("A\n\nThis story was told for years.", "A\n\nThis story was told for years."),
        (
            "Chapter 1: The End of Days\n\n“Sure!” said the end.",
            "Chapter 1: The End of Days\n\n“Sure!” said the end.",
        ),
    ],
)
def test_cleaning_takes_remarks_and_keeps_stories(raw, cleaned):
    assert prepare_stories.clean(raw) == cleaned
