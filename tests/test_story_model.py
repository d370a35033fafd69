"""Test the shipped model: its beginnings, and the mark, which is never typed and never generated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import jet  # noqa: F401  registers the network with transformers
from jet.engine.loading import load_tokenizer
from jet.engine.text.tokenizer import StoryTokenizer
from jet.evaluate import to_tokens
from jet.story.context import ContextBuilder
from jet.story.guidance import AuthorsNote, Guidance, LoreEntry
from scripts.training.data import END_OF_TEXT, TALE
from scripts.training.voice import Voice

STORY_MODEL = Path(__file__).parents[1] / "assets" / "story-model"
BEGINNING = "The old lighthouse keeper opened the door and"
SPELT_OUT = "She typed <|tale|> and <|endoftext|>."


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(STORY_MODEL, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(STORY_MODEL)


@pytest.fixture(scope="module")
def story_tokenizer(model) -> StoryTokenizer:
    return load_tokenizer(str(STORY_MODEL), model)


def test_it_is_small_enough_to_ship_and_says_how_it_was_made():
    assert sum(file.stat().st_size for file in STORY_MODEL.iterdir()) < 36e6
    assert Voice(**json.loads((STORY_MODEL / "voice.json").read_text())) == Voice()
    assert json.loads((STORY_MODEL / "training.json").read_text())["model"] == "jet_nemotron"


@pytest.mark.parametrize("text", ["", BEGINNING, " ", "\n\n", SPELT_OUT])
def test_every_text_has_one_start_in_front(text, tokenizer, story_tokenizer):
    ids = tokenizer(text, split_special_tokens=True).input_ids
    assert ids[0] == END_OF_TEXT
    assert not {END_OF_TEXT, TALE} & set(ids[1:])
    assert story_tokenizer.encode(text, 4096).tolist() == ids
    assert to_tokens(tokenizer, [text]) == [[*ids, END_OF_TEXT]]
    assert tokenizer.decode(ids[1:]) == text


def test_its_own_special_tokens_typed_by_a_reader_are_text(story_tokenizer):
    ids = story_tokenizer.encode(SPELT_OUT, 4096)
    assert "".join(map(story_tokenizer.token_text, ids[1:])) == SPELT_OUT


def test_generate_is_forbidden_the_mark(model):
    assert model.generation_config.suppress_tokens == [TALE]


@torch.no_grad()
def test_the_mark_is_never_likely(model):
    """Check that at every position the mark is a hundred times less likely than min-p accepts."""
    torch.manual_seed(0)
    start = torch.tensor([[END_OF_TEXT]])
    story = model.generate(start, max_new_tokens=300, do_sample=True, eos_token_id=None, suppress_tokens=None)
    chances = model(story).logits[0].softmax(-1)
    assert (chances[:, TALE] < 5e-4 * chances.amax(-1)).all()


@torch.no_grad()
def test_the_mark_asks_for_another_voice(model, tokenizer):
    """Check that classic texts are likelier after the mark, modern ones without it."""
    old, new = (
        tokenizer.encode(text, add_special_tokens=False)
        for text in (
            "Once upon a time there was a king who had three sons, and they could do nothing to please him.",
            "The sun dipped below the horizon, casting a golden glow over the coastal town of Seabrook.",
        )
    )

    def nats(front: list[int], text: list[int]) -> float:
        losses = model(torch.tensor([front + text])).logits[0, len(front) - 1 : -1].log_softmax(-1)
        return -float(losses.gather(1, torch.tensor(text)[:, None]).sum())

    assert nats([END_OF_TEXT, TALE], old) < nats([END_OF_TEXT], old)
    assert nats([END_OF_TEXT], new) < nats([END_OF_TEXT, TALE], new)


DIALOGUE = "".join(f"“Is that {n} already?” she asked. \n\n" for n in range(742))


@pytest.mark.parametrize(
    "guidance",
    [
        Guidance(),
        Guidance("The keeper is old. \n\nHe is deaf. "),
        Guidance("M. \n\n", AuthorsNote("Slowly."), (LoreEntry("a", (), "L. \n\n" * 40, constant=True),)),
    ],
)
def test_a_story_is_cut_for_the_model_and_never_refused(story_tokenizer, guidance):
    builder = ContextBuilder(story_tokenizer.count)
    for story in (
        DIALOGUE,
        DIALOGUE.replace(" \n\n", "\t\n"),
        DIALOGUE.replace(" \n\n", "\n \n"),
        DIALOGUE + "half a wor",
    ):
        for context, room in ((4096, 400), (4096, 1), (512, 100)):
            prompt = builder.build(
                story,
                guidance,
                context,
                room,
                count_prompt=lambda text, _: story_tokenizer.count_prompt(text),
            )
            ids = story_tokenizer.encode(prompt.text, context - 1)  # which refuses what is too long
            assert len(ids) == prompt.tokens <= context - room
            assert prompt.tokens > 0.75 * (context - room)  # and no more is cut than must be


def test_a_finished_prompt_is_measured_as_it_is_read(story_tokenizer):
    for text in ("Once upon a time", "", "a \n\n", SPELT_OUT, "語" * 9):
        assert story_tokenizer.count_prompt(text) == len(story_tokenizer.encode(text, 10**6)) or not text
