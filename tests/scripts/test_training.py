"""Test the training script on a network small enough for a CPU: it learns, and resumes exactly."""

from __future__ import annotations

import csv
import json
import os
import signal

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

import jet  # noqa: F401  registers the network
from jet.evaluate import evaluate
from scripts import prepare_stories, train_story_model
from scripts.training import network, run
from scripts.training.data import TALE, Mixture, read_stories, validation_rows
from scripts.training.optimizer import orthogonalize
from scripts.training.recipe import Recipe
from tests.scripts.stories import write_stories

pytestmark = pytest.mark.thorough

SHAPE = {
    "hidden": 32, "intermediate": 48, "pattern": "jas", "heads": 2, "key_value_heads": 1, "jet_heads": 2,
    "jet_head_dim": 8, "window": 16, "length": 64, "batch": 4, "micro_batch": 2,
}  # fmt: skip
STEP = SHAPE["batch"] * SHAPE["length"]


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread: networks this small are slower with more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    inputs = [str(write_stories(folder / f"{seed}.txt", 150, seed)) for seed in (1, 2)]
    outputs = ["--tokenizer", str(folder / "tokenizer"), "--output", str(folder)]
    prepare_stories.main([*inputs, *outputs, "--vocabulary", "320", "--hold-out", "10"])
    return folder


def train(data, output, *more):
    options = [item for key, value in SHAPE.items() for item in (f"--{key.replace('_', '-')}", str(value))]
    files = ["--data", str(data / "stories.npz.xz"), "--tokenizer", str(data / "tokenizer")]
    train_story_model.main([*files, "--output", str(output), "--device", "cpu", *options, *more])


def curve(output):
    with (output / "curve.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("architecture", ["jet", "transformer"])
def test_learns_and_writes_a_model_that_measures_what_the_record_says(architecture, data, tmp_path):
    train(data, tmp_path, "--architecture", architecture, "--tokens", str(60 * STEP))
    points = curve(tmp_path)
    assert points[-1]["loss"] < 0.7 * points[0]["loss"]
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["tokens"] == 60 * STEP and record["steps"] == 60
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert sum(p.numel() for p in model.parameters()) == record["parameters"]
    assert model.generation_config.suppress_tokens == [TALE]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    stories = (data / "modern-validation.txt").read_text().split(prepare_stories.SEPARATOR)
    recorded = record["validation_bits_per_byte"][-1]["modern"]
    # The record cuts stories into rows of 64 tokens that know nothing of each other; evaluate sees them
    # whole.
    assert evaluate(model, tokenizer, stories).bits_per_byte == pytest.approx(recorded, rel=0.3)


@pytest.mark.parametrize("architecture", ["jet", "transformer"])
def test_an_interrupted_run_continues_to_exactly_the_same_weights(architecture, data, tmp_path, monkeypatch):
    arguments = ["--architecture", architecture, "--tokens", str(24 * STEP)]
    train(data, tmp_path / "whole", *arguments)

    take_step = run.Run.step

    def step_then_signal(self, progress):
        loss = take_step(self, progress)
        if self.place.step == 13:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    monkeypatch.setattr(run.Run, "step", step_then_signal)
    train(data, tmp_path / "parts", *arguments)
    assert not (tmp_path / "parts" / "model").exists()
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["place"]["step"] == 13
    monkeypatch.undo()
    train(data, tmp_path / "parts", *arguments)

    whole, parts = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name / "model").state_dict()
        for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_checkpoint_of_another_recipe_is_refused(data, tmp_path):
    train(data, tmp_path, "--tokens", str(2 * STEP))
    with pytest.raises(ValueError, match="another recipe"):
        train(data, tmp_path, "--tokens", str(4 * STEP), "--dropout", "0.2")


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(hidden=128, intermediate=256, heads=2, pattern="jjsaj")])
def test_the_plain_transformer_has_as_many_parameters(recipe):
    with torch.device("meta"):
        ours, plain = network.build_jet(recipe, 8192), network.build_transformer(recipe, 8192)
    assert network.count(plain) == pytest.approx(network.count(ours), rel=0.015)


def test_the_shipped_recipe_has_every_kind_of_layer_and_fits():
    with torch.device("meta"):
        model = network.build_jet(Recipe(), 8192)
    assert set(model.config.layer_types) == {"jet", "attn", "swa"}
    assert model.config.layer_types.count("jet") > len(model.config.layer_types) / 2
    assert 2 * network.count(model) < 34e6


def test_batches_do_not_repeat_and_follow_the_classics_share(data):
    recipe = Recipe(**SHAPE, classics_first=1.0, classics_last=0.0)
    sets = read_stories(data / "stories.npz.xz", data / "tokenizer")
    mixture = Mixture(sets, recipe)
    first = [mixture.batch(step, 0.0) for step in range(3)]
    assert mixture.streams["modern_train"].row == 0  # all of it classics
    assert len({row.tobytes() for batch in first for row in batch}) == 12
    assert all((rows[1:, 0] == rows[:-1, -1]).all() for rows in first)  # one stream, cut without gaps
    mixture.batch(3, 1.0)
    assert mixture.streams["modern_train"].row == 4


def test_every_epoch_has_every_story_in_another_order(data):
    sets = read_stories(data / "stories.npz.xz", data / "tokenizer")
    stories = sets["modern_train"]
    epochs = [stories.epoch(np.random.default_rng(seed)) for seed in (0, 1)]
    assert not np.array_equal(*epochs)
    assert all(np.array_equal(np.sort(epoch), np.sort(epochs[0])) for epoch in epochs)
    assert (epochs[0] == 0).sum() == len(stories)
    plain = stories.epoch(np.random.default_rng(0), plain=1.0)
    assert len(plain) == sum(stories.starts[1:] - stories.bodies) + len(stories)


def test_stories_may_begin_in_their_midst(data):
    stories = read_stories(data / "stories.npz.xz", data / "tokenizer")["modern_train"]
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer")
    middles = tokenizer.decode(stories.epoch(np.random.default_rng(0), middle=1.0).tolist())
    begun = middles.split("<|endoftext|>")[1:]
    assert len(begun) == len(stories)
    assert all(story.split()[1:3] == ["went", "to"] for story in begun)  # paragraphs of the made-up stories
    assert len({story.count("\n\n") for story in begun}) > 1


def test_classics_and_picture_books_are_marked_and_keep_their_titles(data):
    sets = read_stories(data / "stories.npz.xz", data / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer")
    longest = int(np.diff(sets["modern_train"].starts).max())
    recipe = Recipe(**SHAPE, plain_beginnings=0.0, middle_beginnings=1.0, picture_book=longest)
    streams = Mixture(sets, recipe).streams

    def documents(name):
        return tokenizer.decode(streams[name]._tokens.tolist()).split("<|endoftext|>")[1:]

    assert all(text.startswith("<|tale|>") and "Chapter" in text for text in documents("classics_train"))
    modern = documents("modern_train")
    whole = [text for text in modern if "Chapter" in text]
    assert all(text.startswith("<|tale|>") for text in whole)
    assert 0 < len(whole) < len(modern)
    assert not any("<|tale|>" in text for text in modern if text not in whole)


def test_the_mark_of_a_tale_is_never_learnt(data):
    torch.manual_seed(0)
    hidden, weight = torch.randn(1, 3, 8), torch.randn(20, 8)
    losses = network.token_losses(hidden, weight, torch.tensor([[5, 1, 7]]))
    assert losses[0, 1] == 0 and (losses[0, [0, 2]] > 0).all()


def test_training_goes_on_from_finished_weights(data, tmp_path):
    train(data, tmp_path / "first", "--tokens", str(60 * STEP))
    more = [
        "--weights",
        str(tmp_path / "first" / "model"),
        "--matrix-rate",
        "0.002",
        "--vector-rate",
        "0.0003",
    ]
    train(data, tmp_path / "second", *more, "--tokens", str(5 * STEP))
    first, second = (json.loads((tmp_path / n / "record.json").read_text()) for n in ("first", "second"))
    before, after = (r["validation_bits_per_byte"][-1]["modern"] for r in (first, second))
    assert after == pytest.approx(before, rel=0.1)
    assert curve(tmp_path / "second")[0]["loss"] < 0.7 * curve(tmp_path / "first")[0]["loss"]


def test_validation_rows_hold_every_token_once(data):
    stories = read_stories(data / "stories.npz.xz", data / "tokenizer")["modern_validation"]
    rows, counts = validation_rows(stories, 50)
    assert counts.sum() == len(stories.tokens) + len(stories)  # every token, and every end
    assert rows.shape[1] == 51


@pytest.mark.parametrize("length", [16, 17, 40, 64])
def test_window_attention_is_masked_attention(length):
    torch.manual_seed(length)
    query, key, value = (
        torch.randn(2, 4, length, 8),
        torch.randn(2, 2, length, 8),
        torch.randn(2, 2, length, 8),
    )
    ahead = torch.arange(length)[:, None] - torch.arange(length)
    sees = (ahead >= 0) & (ahead < 16)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=sees, enable_gqa=True, scale=0.3)
    torch.testing.assert_close(network.window_attention(query, key, value, 16, 0.3), expected)


@pytest.mark.parametrize("shape", [(3, 20, 48), (2, 48, 20)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
    assert values.min() > 0.6 and values.max() < 1.3


def test_a_run_needs_an_end_and_a_recipe_that_fits():
    with pytest.raises(ValueError, match="budget"):
        run.Budget()
    with pytest.raises(ValueError, match="micro_batch"):
        Recipe(batch=6, micro_batch=4)
    with pytest.raises(ValueError, match="pattern"):
        Recipe(pattern="jxa")
    assert run.Budget(tokens=100, minutes=1).progress(10, 45.0) == 0.75
    assert (
        Recipe().rate(0.0) == 0.0 and Recipe().rate(1.0) == 0.0 and max(map(Recipe().rate, (0.02, 0.5))) < 1
    )
