"""Test loading and saving: official names and configs, and messages for checkpoints that do not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import jet
from jet import CheckpointError, JetNemotronConfig, JetNemotronForCausalLM
from tests.networks import GOLDEN, GOLDEN_NAMES, golden_model, small_config

# The shipped configurations' shapes, as the paper and the checkpoints give them.
OFFICIAL = {
    "2B": {
        "layers": "jjjjjjjjjjjjjjajjjjassjjjjjj",
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_attention_heads": 12,
        "jet": {"num_heads": 12, "head_dim": 96, "expand_v": 2.6666666667},
        "window": 1152,
        "parameters": 1_964.8,
        "max_position_embeddings": 131072,
    },
    "4B": {
        "layers": "jjjjjsjjjjjjjjjjsajsassjjsjsjjjjajjj",
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_attention_heads": 16,
        "jet": {"num_heads": 16, "head_dim": 128, "expand_v": 2},
        "window": 2048,
        "parameters": 3_960.4,
        "max_position_embeddings": 32768,
    },
}


def official_config(name: str) -> dict[str, object]:
    """Return the official config.json of this shape."""
    shape = OFFICIAL[name]
    kinds = {"j": "jet", "a": "attn", "s": "swa"}
    common = {"conv_size": 4, "dconv_generator_reduction": 8, "dconv_implementation": "triton"}
    jet = {**shape["jet"], **common, "mode": "chunk", "norm_eps": "1e-5"}
    return {
        "architectures": ["JetNemotronForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_jet_nemotron.JetNemotronConfig",
            "AutoModelForCausalLM": "modeling_jet_nemotron.JetNemotronForCausalLM",
        },
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "efficient_attention_config": {"jet": jet, "swa": {"window_size": shape["window"]}},
        "hidden_act": "silu",
        "hidden_size": shape["hidden_size"],
        "initializer_range": 0.02,
        "intermediate_size": shape["intermediate_size"],
        "layer_types": [kinds[letter] for letter in shape["layers"]],
        "max_position_embeddings": shape["max_position_embeddings"],
        "max_window_layers": len(shape["layers"]),
        "model_type": "jet_nemotron",
        "num_attention_heads": shape["num_attention_heads"],
        "num_hidden_layers": len(shape["layers"]),
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.3",
        "use_cache": True,
        "use_mrope": False,
        "vocab_size": 151936,
    }


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_configs_give_the_official_parameter_counts(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(official_config(name)))
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, JetNemotronConfig)
    assert config.jet.head_v_dim == 256
    assert config.jet.norm_eps == 1e-5
    assert config.dtype == torch.bfloat16
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert round(model.num_parameters() / 1e6, 1) == OFFICIAL[name]["parameters"]


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_auto_classes_load_without_remote_code(name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / name)
    assert isinstance(model, JetNemotronForCausalLM)
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    assert tied == (name == "tiny-2b")


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_saved_names_tensors_and_config_load_again(name: str, tmp_path: Path) -> None:
    model = golden_model(name)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    original: dict[str, torch.Tensor] = {}
    for path in (GOLDEN / name).glob("model*.safetensors"):
        original |= load_file(path)
    assert saved.keys() == original.keys()
    assert all(torch.equal(saved[key], original[key]) for key in original)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    for key, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    keys = ("layer_types", "efficient_attention_config", "rope_theta", "tie_word_embeddings", "vocab_size")
    written = json.loads((tmp_path / "config.json").read_text())
    assert all(written[key] == getattr(model.config, key) for key in keys)
    assert again.config.jet == model.config.jet
    assert again.config.sliding_window == model.config.sliding_window


def test_load_model_puts_it_on_its_device_in_its_type() -> None:
    model = jet.load_model(GOLDEN / "tiny-2b", "cpu", torch.bfloat16, "eager")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config._attn_implementation == "eager"
    assert not model.training
    assert jet.load_model(GOLDEN / "tiny-2b").dtype == torch.float32


Damage = Callable[[Path], None]


def edit_config(**changes: object) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        values = json.loads(path.read_text())
        values.update(changes)
        path.write_text(json.dumps(values))

    return damage


def edit_jet(**changes: object) -> Damage:
    def damage(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())["efficient_attention_config"]
        edit_config(efficient_attention_config={**values, "jet": {**values["jet"], **changes}})(folder)

    return damage


def edit_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


W2 = "model.layers.1.self_attn.dynamic_conv1d.kernel_generator.w2.bias"
LAYERS = ["swa", "jet", "mamba", "attn", "jet"]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "missing tensor": (edit_tensors(lambda t: t.pop(W2)), rf"missing tensors: {W2}"),
    "unexpected tensor": (edit_tensors(lambda t: t.update(spare=torch.ones(2))), "unexpected tensors: spare"),
    "wrong shape": (
        edit_tensors(lambda t: t.update({W2: torch.ones(3)})),
        rf"{W2}.*\[3\].*\[512\]",
    ),
    "unknown layer type": (edit_config(layer_types=LAYERS), r"layer_types\[2\] is 'mamba'"),
    "too few layers": (
        edit_config(layer_types=LAYERS[:2]),
        "num_hidden_layers is 5, but layer_types names 2",
    ),
    "unknown jet value": (edit_jet(head_count=3), "unknown values .*head_count"),
    "unknown kernel": (edit_jet(mode="parallel"), "mode is 'parallel'"),
    "bad number": (edit_jet(norm_eps="tiny"), "norm_eps must be a number"),
    "unknown activation": (edit_config(hidden_act="gelu"), "hidden_act is 'gelu'"),
    "rope scaling": (edit_config(rope_scaling={"type": "yarn", "factor": 4.0}), "rope_scaling"),
    "no window": (edit_config(efficient_attention_config={"jet": {}}), "window_size"),
    "heads do not divide": (edit_config(num_attention_heads=5), "not a multiple of num_attention_heads 5"),
    "another model": (edit_config(model_type="qwen2"), "not a Jet-Nemotron checkpoint.*'qwen2'"),
    "truncated file": (truncate, "truncated or damaged"),
    "not json": (
        lambda folder: (folder / "config.json").write_text("{oops") and None,
        "cannot be read as JSON",
    ),
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_bad_checkpoint_says_what_is_wrong(name: str, tmp_path: Path) -> None:
    damage, message = DAMAGES[name]
    folder = tmp_path / "checkpoint"
    shutil.copytree(GOLDEN / "tiny-4b", folder)
    damage(folder)
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        JetNemotronForCausalLM.from_pretrained(folder)
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        jet.load_model(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(GOLDEN / "tiny-2b", folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002.safetensors is missing"):
        JetNemotronForCausalLM.from_pretrained(folder)


def test_no_such_path(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        JetNemotronForCausalLM.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="does not exist"):
        jet.load_model("./nowhere")
    file = tmp_path / "weights.bin"
    file.write_bytes(b"0")
    with pytest.raises(CheckpointError, match="is a file"):
        jet.load_model(file)


def test_an_unreachable_hub_says_what_to_do() -> None:
    with pytest.raises(CheckpointError, match=r"jet-ai/Jet-Nemotron-2B .*folder of a checkpoint"):
        jet.load_model("jet-ai/Jet-Nemotron-2B")


def test_config_defaults_are_the_2b_shape_without_attention_layers() -> None:
    config = JetNemotronConfig()
    assert config.layer_types == ["jet"] * 28
    assert config.sliding_window is None


def test_every_changed_value_survives_a_round_trip(tmp_path: Path) -> None:
    config = small_config(tie_word_embeddings=False, rms_norm_eps=1e-4, eos_token_id=[0, 3])
    config.save_pretrained(tmp_path)
    assert JetNemotronConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
