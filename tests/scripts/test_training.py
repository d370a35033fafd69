"""Test the training script on a network small enough for a CPU: it learns, and resumes exactly."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

import jet
from jet.evaluate import evaluate
from jet.modeling.quantized_writing import write_quantized
from scripts import prepare_stories, train_story_model
from scripts.training import export, network, probe, run
from scripts.training.data import TALE, read_stories, validation_rows
from scripts.training.fake_quant import FakeQuantizer, shipped_bytes
from scripts.training.optimizer import orthogonalize
from scripts.training.recipe import Recipe
from tests.conftest import ROOT
from tests.scripts.stories import write_stories

pytestmark = pytest.mark.thorough

SHAPE = {
    "hidden": 32, "intermediate": 48, "pattern": "jas", "heads": 2, "key_value_heads": 1, "jet_heads": 2,
    "jet_head_dim": 8, "window": 16, "length": 64, "batch": 4, "micro_batch": 4,
}  # fmt: skip
STEP = SHAPE["batch"] * SHAPE["length"]


@pytest.fixture(scope="module", autouse=True)
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
    prepare_stories.main([*inputs, "--output", str(folder), "--vocabulary", "320", "--hold-out", "40"])
    return folder


OPTIONS = [item for key, value in SHAPE.items() for item in (f"--{key.replace('_', '-')}", str(value))]


def train(data, output, *more):
    files = ["--data", str(data), "--output", str(output)]
    train_story_model.main([*files, "--device", "cpu", *OPTIONS, *more])


INTERRUPTED = ["--tokens", str(24 * STEP), "--quantized", "0.3", "--validations", "1"]


@pytest.fixture(scope="module")
def whole(data, one_thread, tmp_path_factory):
    """Train a run that is never interrupted; return its folder."""
    folder = tmp_path_factory.mktemp("whole")
    train(data, folder, *INTERRUPTED)
    return folder


def curve(output):
    with (output / "curve.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("architecture", ["jet", "transformer"])
def test_learns_and_writes_a_model_that_measures_what_the_record_says(architecture, data, tmp_path):
    train(
        data,
        tmp_path / "run",
        "--architecture",
        architecture,
        "--tokens",
        str(40 * STEP),
        "--micro-batch",
        "2",
    )
    points = curve(tmp_path / "run")
    assert points[-1]["loss"] < 0.75 * points[0]["loss"]
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["tokens"] == 40 * STEP and record["steps"] == 40
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["loss"] for entry in log if "loss" in entry] == [point["loss"] for point in points]
    assert [entry for entry in log if "weights" in entry] == record["validation_bits_per_byte"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model", dtype=torch.float32)
    assert sum(p.numel() for p in model.parameters()) == record["parameters"]
    assert model.generation_config.suppress_tokens == [TALE]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    stories = (data / "modern-validation.txt").read_text().split(prepare_stories.SEPARATOR)
    recorded = record["validation_bits_per_byte"][-1]["modern"]
    # The record cuts stories into rows of 64 tokens that know nothing of each other; evaluate sees them
    # whole.
    assert evaluate(model, tokenizer, stories).bits_per_byte == pytest.approx(recorded, rel=0.3)

    # Rounded for training, the weights are those of the quantized checkpoint, and so are the logits.
    write_quantized(tmp_path / "run" / "model", "int4", tmp_path / "int4")
    shipped = jet.load_model(tmp_path / "int4")
    tokens = torch.arange(2, 42)[None]
    with FakeQuantizer(model).applied():
        for name, module in shipped.named_modules():
            if hasattr(module, "quantized_weight"):
                assert torch.equal(module.weight.float(), model.get_submodule(name).weight), name
        with torch.no_grad():
            wanted = model(tokens).logits
    got = shipped(tokens).logits.float()
    assert (got - wanted).norm() < 0.05 * wanted.norm()  # its activations are rounded, too
    assert not torch.equal(model.lm_head.weight, shipped.lm_head.weight.float())


@pytest.mark.parametrize("how", ["signal", "clock"])
def test_an_interrupted_run_continues_to_exactly_the_same_weights(how, data, whole, tmp_path, monkeypatch):
    take_step = run.Run.step

    def step_then_signal(self, progress):
        loss = take_step(self, progress)
        if self.place.step == 19:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    if how == "signal":
        monkeypatch.setattr(run.Run, "step", step_then_signal)
        train(data, tmp_path / "parts", *INTERRUPTED)
    else:
        train(data, tmp_path / "parts", *INTERRUPTED, "--stop-after", "0.001")
    assert not (tmp_path / "parts" / "model").exists()
    place = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["place"]
    assert place["step"] == (19 if how == "signal" else 1)
    export.main(
        ["--run", str(tmp_path / "parts"), "--tokenizer", str(data), "--output", str(tmp_path / "so-far")]
    )
    assert jet.load_model(tmp_path / "so-far").generation_config.suppress_tokens == [TALE]
    monkeypatch.undo()
    train(data, tmp_path / "parts", *INTERRUPTED)

    expected, got = (
        AutoModelForCausalLM.from_pretrained(folder / "model").state_dict()
        for folder in (whole, tmp_path / "parts")
    )
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_a_run_goes_on_between_the_commands_of_a_rented_machine(data, tmp_path):
    """Check that `wait` waits for a run, and tells complete, unfinished and failed runs apart."""

    def say(name, *arguments):
        environment = {**os.environ, "RUN": str(tmp_path / name), "PYTHON": sys.executable}
        command = [ROOT / "scripts/training/rented_gpu.sh", *arguments]
        ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        return ran.returncode, ran.stdout

    def home(name):
        folder = tmp_path / f"{name}-home"
        folder.mkdir()
        code, _ = say(name, "finish", str(folder))
        return code, sorted(path.name for path in folder.iterdir())

    given = [str(data), "--device", "cpu", *OPTIONS, "--validations", "1"]
    say("whole", "start", *given, "--tokens", str(6 * STEP))
    say("cut", "start", *given, "--minutes", "60")
    say("failed", "start", *given)  # which has no end
    code, said = say("whole", "wait", "100")
    assert code == 0 and "the run is complete" in said
    files = ["config.json", "generation_config.json", "log.jsonl", "model.aa", "record.json"]
    assert home("whole") == (0, files)
    code, said = say("cut", "wait", "5")
    assert code == 0 and "the run goes on" in said
    assert home("cut") == (0, files)
    code, said = say("failed", "wait", "100")
    assert code == 1 and "A run needs a budget" in said and "THE RUN IS DEAD" in said


def test_a_checkpoint_of_another_recipe_is_refused(data, tmp_path):
    train(data, tmp_path, "--tokens", str(2 * STEP))
    with pytest.raises(ValueError, match="another recipe"):
        train(data, tmp_path, "--tokens", str(4 * STEP), "--dropout", "0.2")


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(hidden=256, intermediate=512, heads=4, pattern="jjsaj")])
def test_the_plain_transformer_has_as_many_parameters(recipe):
    with torch.device("meta"):
        ours, plain = network.build_jet(recipe, 8192), network.build_transformer(recipe, 8192)
    assert network.count(plain) == pytest.approx(network.count(ours), rel=0.015)


def test_the_recipe_has_every_kind_of_layer_and_fits():
    with torch.device("meta"):
        model = network.build_jet(Recipe(), 8192)
    assert set(model.config.layer_types) == {"jet", "attn", "swa"}
    assert model.config.layer_types.count("jet") > len(model.config.layer_types) / 2
    assert 40e6 < network.count(model) < 60e6
    assert shipped_bytes(model) < 35.5e6


def test_the_count_of_shipped_bytes_is_the_writer_s(tmp_path):
    model = network.build_jet(Recipe(**SHAPE), 320).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "whole")
    write_quantized(tmp_path / "whole", "int4", tmp_path / "int4")
    size = (tmp_path / "int4" / "model.safetensors").stat().st_size
    assert 0 < size - shipped_bytes(model) < 10_000  # the header


def test_the_probe_measures_every_shape_with_every_rule(capsys):
    shapes = ["--shape", "128:64:ja:2", "--shape", "128:64:s:2"]
    sizes = ["--length", "64", "--rows", "2", "--micro-rows", "2", "--seconds", "0.01", "--device", "cpu"]
    probe.main([*shapes, *sizes])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["shape"] for line in lines] == ["128:64:ja:2", "128:64:s:2"]
    assert all(line["tokens_per_second"] > 0 and "error" not in line for line in lines)


def test_the_mark_of_a_tale_is_never_learnt(data):
    torch.manual_seed(0)
    hidden, weight = torch.randn(1, 3, 8), torch.randn(20, 8)
    losses = network.token_losses(hidden, weight, torch.tensor([[5, 1, 7]]))
    assert losses[0, 1] == 0 and (losses[0, [0, 2]] > 0).all()
    later = network.training_losses(hidden, weight, torch.tensor([[5, -100, 7]]), torch.tensor(0.5))
    assert later[0, 0] == losses[0, 0] and later[0, 2] == losses[0, 2]  # what comes after is not learnt
    after = network.token_losses(hidden, weight, torch.tensor([[-100, 7, -100]]))
    assert later[0, 1] == 0.5 * after[0, 1]


def test_training_goes_on_from_finished_weights(data, whole, tmp_path):
    rates = ["--matrix-rate", "0.002", "--vector-rate", "0.0003"]
    train(data, tmp_path, "--weights", str(whole / "model"), *rates, "--tokens", str(5 * STEP))
    first, second = (json.loads((f / "record.json").read_text()) for f in (whole, tmp_path))
    before, after = (r["validation_bits_per_byte"][-1]["modern"] for r in (first, second))
    assert after == pytest.approx(before, rel=0.1)
    assert curve(tmp_path)[0]["loss"] < 0.85 * curve(whole)[0]["loss"]


def test_validation_rows_hold_every_token_once(data):
    stories = read_stories(data, data)["modern_validation"]
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
