"""Test random and loaded networks, prompts of exact length, and readable errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from jet import CheckpointError, JetNemotronConfig
from jet.api import RequestError
from jet.bench import networks
from jet.bench.networks import IdTokenizer, check_length, load, random_network, random_prompt, read_config
from jet.bench.options import BenchError, Options
from jet.engine.model_runner import ModelRunner
from jet.hardware import HardwareError
from tests.networks import GOLDEN, small_config

CONFIG = GOLDEN / "tiny-2b" / "config.json"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_random_weights_are_of_the_networks_type_and_never_zeros(dtype: torch.dtype) -> None:
    model, again = (random_network(small_config(), "cpu", dtype) for _ in range(2))
    for (name, weight), same in zip(model.named_parameters(), again.parameters(), strict=True):
        assert weight.dtype == dtype and not weight.requires_grad
        assert torch.equal(weight, same)
        assert weight.isfinite().all()
        if weight.ndim == 2:
            assert (weight != 0).float().mean() > 0.99, name
            assert 0.2 < weight.float().std() < 0.4, name  # the config's initializer_range


def test_a_tied_head_is_drawn_once() -> None:
    model = random_network(read_config(CONFIG), "meta", torch.bfloat16)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_checkpoint_and_its_config_are_the_same_network() -> None:
    loaded = load(Options("decode", str(GOLDEN / "tiny-2b"), device="cpu", context=9))
    drawn = load(Options("decode", config=CONFIG, device="cpu", context=9))
    assert loaded.info.parameters == drawn.info.parameters
    assert loaded.prompt == drawn.prompt and len(loaded.prompt) == 9
    assert max(loaded.prompt) < loaded.model.config.vocab_size
    for network in (loaded, drawn):
        network.runner.close()


def test_the_story_model_comes_with_its_own_words() -> None:
    network = load(Options("decode", "assets/story-model", device="cpu", context=9))
    detokenizer = network.tokenizer.detokenizer([])
    assert "".join(map(detokenizer.push, range(300, 310))) not in ("", "t300 ")
    network.runner.close()


def test_what_steps_need_is_prepared_before_they_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    left = [10]

    def piece(runner: ModelRunner) -> str | None:
        left[0] -= 1
        return "Preparing" if left[0] else None

    monkeypatch.setattr(ModelRunner, "capture_next", piece)
    load(Options("start", config=CONFIG, device="cpu", context=9)).runner.close()
    assert left == [10], "a start waits for none of it"
    load(Options("decode", config=CONFIG, device="cpu", context=9)).runner.close()
    assert left == [0]
    left[0] = 10
    monkeypatch.setattr(networks, "_CAPTURE_S", 0.0)
    load(Options("decode", config=CONFIG, device="cpu", context=9)).runner.close()
    assert left == [10], "what takes too long is left to the engine"


def test_ids_are_read_and_named() -> None:
    tokenizer = IdTokenizer()
    assert tokenizer.encode("3 1 2", max_tokens=3).tolist() == [3, 1, 2]
    assert tokenizer.detokenizer([]).push(12) == "t12 "
    for prompt in ("", "1 2 3 4"):
        with pytest.raises(RequestError, match="1 to 3 can be read"):
            tokenizer.encode(prompt, max_tokens=3)


def test_prompts_are_random_and_always_the_same() -> None:
    assert random_prompt(50, 8) == random_prompt(50, 8)
    assert len(set(random_prompt(1000, 100))) > 50


@pytest.mark.parametrize(("command", "context", "fits"), [("decode", 502, True), ("decode", 503, False)])
def test_a_context_beyond_the_model_is_refused(command: str, context: int, fits: bool) -> None:
    options = Options(command, "m", context=context, tokens=10)
    if fits:
        check_length(options, 512)
    else:
        with pytest.raises(BenchError, match="503 tokens of context and 10 new ones are more than the 512"):
            check_length(options, 512)


def test_no_such_model() -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load(Options("decode", "./no/such/model", device="cpu"))
    with pytest.raises(HardwareError, match="The device 'fpga' is not supported"):
        load(Options("decode", "assets/story-model", device="fpga"))
    with pytest.raises(HardwareError, match="Unknown dtype 'int3'"):
        load(Options("decode", "assets/story-model", device="cpu", dtype="int3"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "model_type is None"),
        ('{"model_type": "qwen2"}', "model_type is 'qwen2'"),
        ('{"model_type": "jet_nemotron", "layer_types": ["jet"]}', "layer_types names 1 layers"),
    ],
)
def test_a_config_that_is_none(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(BenchError, match=message):
        read_config(path)
    with pytest.raises(BenchError, match="cannot be read"):
        read_config(tmp_path / "missing.json")


def test_a_config_may_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "official.json"
    path.write_text(json.dumps(small_config().to_dict()))
    assert isinstance(read_config(path), JetNemotronConfig)
