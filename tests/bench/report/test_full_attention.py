"""Test the network for comparison: it is as large, with full attention in every layer."""

from __future__ import annotations

import pytest
import torch

from jet import JetNemotronConfig
from jet.bench.networks import random_network
from jet.bench.report.full_attention import count, full_attention_config, random_full_attention
from tests.bench.test_bytes_moved import OFFICIAL_2B
from tests.networks import GOLDEN_NAMES, golden_model


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_it_has_our_depth_and_width_and_type(name: str) -> None:
    ours = golden_model(name)
    full = random_full_attention(ours)
    for size in (
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
    ):
        assert getattr(full.config, size) == getattr(ours.config, size)
    assert (full.dtype, full.device) == (ours.dtype, ours.device)
    assert set(full.config.layer_types) == {"attn"} != set(ours.config.layer_types)
    assert full.config.tie_word_embeddings == ours.config.tie_word_embeddings


def test_the_parameter_counts_of_the_official_2b_meet() -> None:
    config = JetNemotronConfig(**OFFICIAL_2B)
    wanted = count(random_network(config, "meta", torch.bfloat16))
    shape = full_attention_config(config, wanted)
    layer = 1536 * (1536 + 2 * 256) + 1536 + 2 * 256 + 1536 * 1536 + 2 * 1536
    by_hand = 28 * (layer + 3 * 1536 * shape.intermediate_size) + 151936 * 1536 + 1536
    assert by_hand == pytest.approx(wanted, rel=1e-3)
