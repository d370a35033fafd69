"""What the sweeps compare with: a transformer of full attention, of our depth, width and parameter count.

A Qwen2 network with random weights, its MLP as wide as makes the parameter counts meet. It runs through plain
`generate()` with a dynamic cache, as most would run it; a faster way to run it would move its figures, not
how they grow with the text.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from jet.modeling import JetNemotronConfig, JetNemotronForCausalLM

_STEP = 16  # widths are multiples of this


def draw_full_attention(ours: JetNemotronForCausalLM) -> PreTrainedModel:
    """Such a network, where ours is and of its type."""
    config = ours.config
    assert isinstance(config, JetNemotronConfig)
    shape = full_attention_config(config, count(ours))
    torch.manual_seed(0)
    with torch.device(ours.device):
        model = Qwen2ForCausalLM._from_config(shape, dtype=ours.dtype)
    return model.eval().requires_grad_(False)  # type: ignore[no-any-return]


def full_attention_config(config: JetNemotronConfig, parameters: int) -> Qwen2Config:
    """The shape of a Qwen2 network like ours with about so many parameters."""
    with torch.device("meta"):
        narrow = count(Qwen2ForCausalLM(_shape(config, _STEP)))
    layers = len(config.layer_types or [])
    per_step = 3 * config.hidden_size * layers * _STEP
    return _shape(config, _STEP * (1 + max(0, round((parameters - narrow) / per_step))))


def cache_bytes(config: Qwen2Config, tokens: int, itemsize: int) -> int:
    """Bytes of the keys and values of so many tokens."""
    head_dim = config.hidden_size // config.num_attention_heads
    heads = config.num_key_value_heads or config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * head_dim * itemsize * tokens


def count(model: nn.Module) -> int:
    """Parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _shape(config: JetNemotronConfig, intermediate: int) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=intermediate,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        max_position_embeddings=config.max_position_embeddings,
        tie_word_embeddings=config.tie_word_embeddings,
        bos_token_id=None,
        eos_token_id=None,
    )
