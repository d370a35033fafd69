"""Names and shapes of the published checkpoints, so that their sizes are known before a download."""

from __future__ import annotations

from typing import Any

from jet.modeling.config import JetNemotronConfig

OFFICIAL_2B = "jet-ai/Jet-Nemotron-2B"
OFFICIAL_4B = "jet-ai/Jet-Nemotron-4B"


def _layers(count: int, **others: list[int]) -> list[str]:
    """Return the types of `count` layers: "jet", except for the indices listed under another type's name."""
    kinds = {index: kind for kind, indices in others.items() for index in indices}
    return [kinds.get(index, "jet") for index in range(count)]


_SHAPES: dict[str, dict[str, Any]] = {
    OFFICIAL_2B: {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "max_position_embeddings": 131072,
        "layer_types": _layers(28, attn=[14, 19], swa=[20, 21]),
        "efficient_attention_config": {
            "jet": {
                "num_heads": 12,
                "head_dim": 96,
                "expand_v": 2.6666666667,
                "conv_size": 4,
                "dconv_generator_reduction": 8,
                "norm_eps": "1e-5",
            },
            "swa": {"window_size": 1152},
        },
    },
    OFFICIAL_4B: {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "max_position_embeddings": 32768,
        "layer_types": _layers(36, attn=[17, 20, 32], swa=[5, 16, 19, 21, 22, 25, 27]),
        "efficient_attention_config": {
            "jet": {
                "num_heads": 16,
                "head_dim": 128,
                "expand_v": 2,
                "conv_size": 4,
                "dconv_generator_reduction": 8,
                "norm_eps": "1e-5",
            },
            "swa": {"window_size": 2048},
        },
    },
}


def official_config(repository: str) -> JetNemotronConfig:
    """Return the shape of a published checkpoint."""
    return JetNemotronConfig(
        vocab_size=151936, num_key_value_heads=2, dtype="bfloat16", **_SHAPES[repository]
    )
