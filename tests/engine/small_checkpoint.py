"""A small random checkpoint that a page can load: a real network with the story model's tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from jet import JetNemotronConfig, JetNemotronForCausalLM
from tests.conftest import ROOT

STORY_MODEL = ROOT / "assets/story-model"
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "layer_types": ["jet", "swa", "jet", "attn"],
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "efficient_attention_config": {
        "jet": {
            "num_heads": 2, "head_dim": 16, "expand_v": 2.0, "conv_size": 4, "dconv_generator_reduction": 4,
        },
        "swa": {"window_size": 32},
    },
}  # fmt: skip


def save_small_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint of 0.6 M random weights in bfloat16, with a tokenizer."""
    values = json.loads((STORY_MODEL / "config.json").read_text(encoding="utf-8"))
    torch.manual_seed(seed)
    model = JetNemotronForCausalLM(JetNemotronConfig.from_dict({**values, **SHAPE})).to(torch.bfloat16)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(STORY_MODEL / name, folder / name)
    return folder
