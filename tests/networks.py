"""Small networks and golden expectations that several tests use."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from jet import JetNemotronConfig, JetNemotronForCausalLM

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_NAMES = ("tiny-2b", "tiny-4b")
# Prompts per golden checkpoint: shorter than the convolution, around the window, longer than a chunk.
GOLDEN_PROMPTS = [("tiny-2b", i) for i in range(5)] + [("tiny-4b", i) for i in range(4)]


@cache
def golden_model(
    name: str, dtype: torch.dtype = torch.float32, attention: str = "sdpa"
) -> JetNemotronForCausalLM:
    """Load a golden checkpoint, once for each dtype and attention. Tests must not change it."""
    model = JetNemotronForCausalLM.from_pretrained(GOLDEN / name, dtype=dtype, attn_implementation=attention)
    return model.eval().requires_grad_(False)


@cache
def golden_expectations(name: str) -> dict[str, Tensor]:
    """Load the outputs of the official network in float64; tests/golden/README.md lists the keys."""
    return load_file(GOLDEN / name / "expected.safetensors")


def small_config(**changes: object) -> JetNemotronConfig:
    """Return a config with every layer type and sizes that are not multiples of one another."""
    values: dict[str, object] = {
        "vocab_size": 61,
        "hidden_size": 48,
        "intermediate_size": 72,
        "num_hidden_layers": 4,
        "layer_types": ["jet", "swa", "jet", "attn"],
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "efficient_attention_config": {
            "jet": {
                "num_heads": 3,
                "head_dim": 12,
                "expand_v": 1.5,
                "conv_size": 4,
                "dconv_generator_reduction": 2,
            },
            "swa": {"window_size": 7},
        },
        "initializer_range": 0.3,  # wide, so that every path matters
        "eos_token_id": 0,
        "bos_token_id": 0,
        "pad_token_id": 0,
    }
    return JetNemotronConfig(**{**values, **changes})


def small_model(seed: int = 0, **changes: object) -> JetNemotronForCausalLM:
    """Build a random network of `small_config`'s shape, the same for the same seed."""
    torch.manual_seed(seed)
    return JetNemotronForCausalLM(small_config(**changes)).eval()


def random_ids(model: JetNemotronForCausalLM, *shape: int, seed: int = 1) -> Tensor:
    """Return random token ids of any shape, without the end token."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, model.config.vocab_size, shape, generator=generator)
