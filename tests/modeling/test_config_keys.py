"""Test that keys of config.json that change the mathematics are read, or refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import jet
from jet import CheckpointError, JetNemotronConfig, JetNemotronForCausalLM
from tests.networks import GOLDEN, golden_expectations, small_config


def edited(folder: Path, drop: tuple[str, ...] = (), **changes: object) -> Path:
    """Copy a golden checkpoint to `folder` with keys of its config.json dropped or changed; return it."""
    shutil.copytree(GOLDEN / "tiny-2b", folder)
    values = json.loads((folder / "config.json").read_text())
    values = {key: value for key, value in values.items() if key not in drop} | changes
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def rope(kind: str, **values: object) -> dict[str, object]:
    return {"rope_type": kind, "rope_theta": 1e6, "factor": 4.0, **values}


REFUSED = {
    "rope_parameters linear": ({"rope_parameters": rope("linear")}, "rope_parameters.*'linear'"),
    "dynamic": ({"rope_parameters": rope("dynamic")}, "'dynamic'"),
    "yarn": ({"rope_parameters": rope("yarn", original_max_position_embeddings=64)}, "'yarn'"),
    "llama3": ({"rope_parameters": rope("llama3", low_freq_factor=1, high_freq_factor=4)}, "'llama3'"),
    "longrope": ({"rope_parameters": rope("longrope", short_factor=[1.0])}, "'longrope'"),
    "yarn of one layer type": (
        {"rope_parameters": {"attn": rope("default", factor=1), "swa": rope("yarn")}},
        "'yarn'",
    ),
    "another base in rope_parameters": (
        {"rope_theta": 5e5, "rope_parameters": rope("default", factor=1)},
        "rope_theta",
    ),
    "scaled plain rope": ({"rope_parameters": rope("default")}, "factor"),
    "part of a head": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    "rope_scaling": ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling.*'linear'"),
    "mlp_bias": ({"mlp_bias": True}, "mlp_bias is True"),
    "no attention_bias": ({"attention_bias": False}, "attention_bias is False"),
    "softcapping": ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    "attention softcapping": ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    "head_dim": ({"head_dim": 32}, "head_dim is 32"),
    "sliding_window": ({"sliding_window": 12}, "sliding_window is 12.*24"),
    "no sliding window": ({"use_sliding_window": False}, "use_sliding_window is False"),
    "activation": ({"hidden_act": "gelu_pytorch_tanh"}, "gelu_pytorch_tanh"),
    "multiplier": ({"embedding_multiplier": 12.0}, "embedding_multiplier"),
    "normed queries": ({"use_qk_norm": True}, "use_qk_norm"),
    "layers of their own": ({"per_layer_config": {"1": {"hidden_size": 8}}}, "per_layer_config"),
    "quantized elsewhere": (
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        "quantization_config",
    ),
    "integer weights": ({"torch_dtype": "int8"}, "dtype is 'int8'"),
    "half a window": (
        {
            "efficient_attention_config": {
                "jet": {"num_heads": 6, "head_dim": 12},
                "swa": {"window_size": 7.5},
            }
        },
        "window_size must be a whole number",
    ),
    "another base for one layer type": (
        {"rope_parameters": {"attn": {"rope_theta": 1e6}, "swa": {"rope_theta": 1e4}}},
        "more than one rope_theta",
    ),
    "a base for one layer type only": (
        {
            "rope_theta": 5e5,
            "rope_parameters": {"attn": {"type": "default"}, "swa": {"rope_theta": 1e4}},
        },
        "more than one rope_theta",
    ),
    "two bases": (
        {"rope_parameters": {"rope_theta": 1e6}, "rope_scaling": {"type": "default", "rope_theta": 1e4}},
        "more than one rope_theta",
    ),
    "an untied head in words": (
        {"tie_word_embeddings": "false"},
        "tie_word_embeddings must be true",
    ),
    "heads in words": ({"num_key_value_heads": "2"}, "num_key_value_heads must be a whole number.*'2'"),
    "half a word": ({"vocab_size": 512.5}, "vocab_size must be a whole number above 0, not 512.5"),
    "an odd head": ({"hidden_size": 102}, "is 17: rotary positions need an even number"),
    "a list of parts": (
        {"efficient_attention_config": ["jet"]},
        "efficient_attention_config must be an object",
    ),
    "a part in words": (
        {"efficient_attention_config": {"swa": {"window_size": 24}, "jet": "default"}},
        "efficient_attention_config.jet must be an object, not 'default'",
    ),
    "an endless base": ({"rope_theta": float("inf")}, "rope_theta must be a finite number"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_another_network_is_refused_by_name(name: str, tmp_path: Path) -> None:
    changes, message = REFUSED[name]
    folder = edited(tmp_path / "checkpoint", **changes)
    with pytest.raises(CheckpointError, match=message):
        jet.load_model(folder)


READ = {
    "rope_parameters": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    "rope_parameters per layer type": {
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": 1e6} for kind in ("attn", "swa")}
    },
    "plain rope_scaling": {"rope_scaling": {"type": "default"}},
    "head_dim": {"head_dim": 16},
    "sliding_window": {"sliding_window": 24, "use_sliding_window": True},
    "biases as they are": {"mlp_bias": False, "attention_bias": True, "partial_rotary_factor": 1.0},
    "numbers in words": {"rms_norm_eps": "1e-6", "rope_theta": "1e6"},
    "nothing said": {"final_logit_softcapping": None, "quantization_config": None, "head_dim": None},
    "of generate() and of training": {"temperature": 0.7, "do_sample": True, "unsloth_version": "2025.1"},
}


@pytest.mark.parametrize("name", READ)
def test_what_says_the_same_is_read(name: str, tmp_path: Path) -> None:
    folder = edited(tmp_path / "checkpoint", drop=("rope_theta",), **READ[name])
    expected = golden_expectations("tiny-2b")
    logits = jet.load_model(folder)(expected["3.input_ids"][None]).logits[0]
    torch.testing.assert_close(logits, expected["3.logits"], atol=2e-4, rtol=0)


def test_the_base_that_rope_parameters_name_is_the_one_computed_with(tmp_path: Path) -> None:
    ids = golden_expectations("tiny-2b")["3.input_ids"][None]
    new, old = tmp_path / "new", tmp_path / "old"
    edited(new, drop=("rope_theta",), rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    edited(old, rope_theta=1e4)
    logits = jet.load_model(old)(ids).logits
    assert torch.equal(jet.load_model(new)(ids).logits, logits)
    assert not torch.allclose(logits, golden_expectations("tiny-2b")["3.logits"], atol=1e-2)


@settings(max_examples=30, deadline=None)
@given(st.from_regex(r"[a-z]{3,9}_[a-z]{3,9}", fullmatch=True), st.sampled_from([True, 2, 0.5, "gelu", [1]]))
def test_an_unknown_key_is_named(key: str, value: object) -> None:
    if key in JetNemotronConfig().to_dict():
        return
    with pytest.raises(ValueError, match=key):
        small_config(**{key: value})


def test_what_is_set_later_is_refused_when_the_network_is_made() -> None:
    for key, value in (("mlp_bias", True), ("rope_parameters", rope("yarn")), ("hidden_act", "gelu")):
        config = small_config()
        setattr(config, key, value)
        with pytest.raises(ValueError, match=key):
            JetNemotronForCausalLM(config)


def test_what_we_write_we_read(tmp_path: Path) -> None:
    for changes in ({}, {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, {"head_dim": 8}):
        config = small_config(**changes)
        config.save_pretrained(tmp_path)
        again = JetNemotronConfig.from_pretrained(tmp_path)
        assert again.to_dict() == config.to_dict() and again.rope_theta == config.rope_theta
