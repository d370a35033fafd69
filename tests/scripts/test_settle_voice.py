"""Test the default voice: weights move from one kind of story towards another, nothing else changes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from jet import JetNemotronForCausalLM
from scripts import prepare_stories, settle_voice
from scripts.training.data import END_OF_TEXT, TALE, read_stories
from scripts.training.voice import Openings, Voice
from tests.networks import small_config
from tests.scripts.stories import NAMES, write_stories

VOICE = Voice(strength=1.0, steps=6, rows=4, length=24, rate=3e-3, warm_up=1, shortest=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write two kinds of stories with different characters, and an untrained model with a tokenizer."""
    folder = tmp_path_factory.mktemp("voice")
    modern, classics = (write_stories(folder / f"{seed}.txt", 60, seed) for seed in (1, 2))
    text = classics.read_text(encoding="utf-8")
    for name in NAMES:
        text = text.replace(name, f"King {name.upper()}")
    classics.write_text(text, encoding="utf-8")
    outputs = ["--tokenizer", str(folder / "model"), "--output", str(folder)]
    prepare_stories.main([str(modern), str(classics), *outputs, "--vocabulary", "320", "--hold-out", "10"])
    torch.manual_seed(0)
    JetNemotronForCausalLM(small_config(vocab_size=320)).save_pretrained(folder / "model")
    return folder


def settle(folder, output, **changes):
    options = {**vars(VOICE), **changes}
    flags = [item for key, value in options.items() for item in (f"--{key.replace('_', '-')}", str(value))]
    files = ["--data", str(folder), "--model", str(folder / "model")]
    settle_voice.main([*files, "--output", str(output), "--device", "cpu", *flags])
    return AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32)


@torch.no_grad()
def lean(model, sets) -> float:
    """Return the nats per token of the classics' openings minus those of the modern ones."""
    losses = []
    for name in ("modern_validation", "classics_validation"):
        rows = torch.cat([Openings(sets[name], VOICE).batch() for _ in range(4)])
        losses.append(float(model(rows, labels=rows).loss))
    return losses[1] - losses[0]


def test_texts_without_a_mark_lean_further_to_the_modern_voice_the_stronger_it_is(folder, tmp_path):
    sets = read_stories(folder, folder / "model")
    leans = [lean(settle(folder, tmp_path / str(s), strength=s), sets) for s in (0.0, 0.5, 1.0)]
    assert leans[0] + 0.05 < leans[1] < leans[2] - 0.05


def test_no_strength_changes_no_weight(folder, tmp_path):
    before = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.bfloat16)
    after = settle(folder, tmp_path, strength=0.0).state_dict()
    assert all(torch.equal(weight.float(), after[name]) for name, weight in before.state_dict().items())


def test_what_is_written_is_a_model_with_its_tokenizer_and_the_record(folder, tmp_path):
    settle(folder, tmp_path, steps=1)
    assert AutoTokenizer.from_pretrained(tmp_path).encode("Ada")[0] == END_OF_TEXT
    assert Voice(**json.loads((tmp_path / "voice.json").read_text())) == Voice(**{**vars(VOICE), "steps": 1})


def test_openings_are_behind_an_end_of_text_and_have_neither_mark_nor_title(folder):
    sets = read_stories(folder, folder / "model")
    rows = torch.cat([Openings(sets["classics_train"], VOICE).batch() for _ in range(8)])
    assert rows.shape == (32, 25)
    assert rows[:, 0].tolist() == [END_OF_TEXT] * 32
    assert not torch.isin(rows[:, 1:], torch.tensor([END_OF_TEXT, TALE])).any()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert all(tokenizer.decode(row[1:]).startswith("King ") for row in rows)


def test_without_a_document_long_enough_it_says_so(folder):
    sets = read_stories(folder, folder / "model")
    with pytest.raises(ValueError, match="No document has 100000 tokens"):
        Openings(sets["modern_train"], Voice(shortest=100_000))


def test_the_rate_rises_and_then_falls_towards_the_horizon():
    rates = np.array([Voice().rate_at(step) for step in range(101)]) / Voice().rate
    assert rates[0] == pytest.approx(1 / 5)
    assert rates.argmax() == 4
    assert (np.diff(rates[4:]) < 0).all()
    assert rates[100] == 0
