"""The sweeps' baseline: a full-attention transformer of the same depth, width and parameter count.

The baseline is the measured network with full attention in every layer, which is the shape of Qwen2.5. Its
MLP is widened until the parameter counts match. Weights are random. Both networks use the same runner and
kernels, so a measured difference is due to the architecture.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from jet.bench.networks import random_network
from jet.modeling import JetNemotronConfig, JetNemotronForCausalLM

_STEP = 16  # widths are multiples of this


def random_full_attention(ours: JetNemotronForCausalLM) -> JetNemotronForCausalLM:
    """Return the full-attention baseline of `ours`, with random weights and its device and dtype."""
    config = ours.config
    assert isinstance(config, JetNemotronConfig)
    return random_network(full_attention_config(config, count(ours)), ours.device, ours.dtype)


def full_attention_config(config: JetNemotronConfig, parameters: int) -> JetNemotronConfig:
    """Return a config with full attention in every layer and about `parameters` parameters."""
    narrow = count(random_network(_shape(config, _STEP), "meta", torch.float32))
    per_step = 3 * config.hidden_size * config.num_hidden_layers * _STEP
    return _shape(config, _STEP * (1 + max(0, round((parameters - narrow) / per_step))))


def count(model: nn.Module) -> int:
    """Return the number of parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _shape(config: JetNemotronConfig, intermediate: int) -> JetNemotronConfig:
    shape = deepcopy(config)
    shape.layer_types = ["attn"] * config.num_hidden_layers
    shape.intermediate_size = intermediate
    return shape
