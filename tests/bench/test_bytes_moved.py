"""Compare bytes moved with checkpoint files, real caches, and arithmetic for the 2B model."""

from __future__ import annotations

from statistics import mean

import pytest
import torch
from safetensors import safe_open

from jet import HybridCache, JetNemotronConfig
from jet.bench.bytes_moved import decode_bytes_moved, prefill_bytes_moved
from jet.bench.networks import random_network
from jet.modeling.footprint import decode_weight_bytes
from tests.networks import GOLDEN, GOLDEN_NAMES, golden_model, small_model

OFFICIAL_2B = {
    "vocab_size": 151936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
    "layer_types": [*["jet"] * 14, "attn", *["jet"] * 4, "attn", "swa", "swa", *["jet"] * 6],
    "efficient_attention_config": {
        "jet": {
            "conv_size": 4,
            "dconv_generator_reduction": 8,
            "expand_v": 2.6666666667,
            "head_dim": 96,
            "norm_eps": "1e-5",
            "num_heads": 12,
        },
        "swa": {"window_size": 1152},
    },
}


def bytes_in_files(name: str) -> dict[str, int]:
    """Return the float32 bytes of each tensor in the files of a golden checkpoint."""
    sizes = {}
    for path in (GOLDEN / name).glob("model*.safetensors"):
        with safe_open(path, framework="pt") as file:
            sizes.update({key: 4 * file.get_tensor(key).numel() for key in file.keys()})  # noqa: SIM118
    return sizes


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_weights_are_those_of_the_files(name: str) -> None:
    model, sizes = golden_model(name), bytes_in_files(name)
    if not model.config.tie_word_embeddings:
        sizes["model.embed_tokens.weight"] //= model.config.vocab_size  # one row is looked up
    assert decode_weight_bytes(model) == sum(sizes.values())


def test_one_golden_network_is_tied_and_one_is_not() -> None:
    assert [golden_model(name).config.tie_word_embeddings for name in GOLDEN_NAMES] == [True, False]


@torch.inference_mode()
@pytest.mark.parametrize(("name", "context", "tokens"), [("tiny-2b", 20, 12), ("tiny-4b", 3, 40)])
def test_state_is_that_of_a_real_cache(name: str, context: int, tokens: int) -> None:
    """Use lengths around the window, so that the mean of all steps is not that of the first and the last."""
    model = golden_model(name)
    cache = HybridCache(model.config)
    ids = torch.ones(1, context, dtype=torch.long)
    model(input_ids=ids, past_key_values=cache)
    once = cache.memory()
    before = []
    for _ in range(tokens - 1):  # the first token comes from the prompt
        before.append(cache.memory())
        model(input_ids=ids[:, :1], past_key_values=cache)
    floor = decode_bytes_moved(model, context, tokens)
    assert (floor.recurrent, floor.conv) == (2 * once["recurrent"], 2 * once["conv"])
    assert floor.window_kv == round(mean(memory["window_kv"] for memory in before))
    assert floor.full_kv == round(mean(memory["full_kv"] for memory in before))
    assert floor.total == decode_weight_bytes(model) + sum(
        (floor.recurrent, floor.conv, floor.window_kv, floor.full_kv)
    )

    written = prefill_bytes_moved(model, context)
    assert written.weights == floor.weights
    assert {kind: getattr(written, kind) for kind in once} == once


def test_the_official_2b_by_hand() -> None:
    model = random_network(JetNemotronConfig(**OFFICIAL_2B), "meta", torch.bfloat16)
    mlp = 3 * 1536 * 8960
    norms = 2 * 1536
    jet = 1536 * (2 * 1152 + 2 * 3072 + 2 * 12) + 3072 * 1536  # q, k, v, g, a, b; o
    jet += 1536 * 384 + 384 * 12288 + 12288  # the generator, its bias
    jet += 2 * 12 + 256  # decay, norm
    attention = 1536 * (1536 + 2 * 256) + 1536 + 2 * 256 + 1536 * 1536
    weights = 28 * (mlp + norms) + 24 * jet + 4 * attention + 151936 * 1536 + 1536
    assert decode_weight_bytes(model) == 2 * weights
    assert 3.92e9 < decode_weight_bytes(model) < 3.94e9

    floor = decode_bytes_moved(model, context=8192, tokens=3)  # lengths 8192 and 8193
    assert floor.recurrent == 2 * 27 * 2**20
    assert floor.conv == 2 * 24 * 12 * 256 * 4 * 2
    assert floor.window_kv == 2 * 1151 * 2 * 256 * 2  # layers, tokens, keys and values, 2 heads of 128, bytes
    assert floor.full_kv == 2 * 8192.5 * 2 * 256 * 2


def test_a_network_without_windows_has_no_window_bytes() -> None:
    model = small_model(layer_types=["jet", "attn", "jet", "attn"])
    assert decode_bytes_moved(model, 5, 5).window_kv == 0
    assert decode_bytes_moved(model, 5, 5).full_kv > 0
