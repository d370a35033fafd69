"""Baseline of the sweeps: a full-attention transformer of our depth, width and parameter count.

Ours with full attention in every layer, which is the shape of Qwen2.5, its MLP as wide as makes the parameter
counts meet. It has random weights and runs through the same runner and the same kernels, so that what is left
between the two is the architecture.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from jet.bench.networks import random_network
from jet.modeling import JetNemotronConfig, JetNemotronForCausalLM

_STEP = 16  # widths are multiples of this


def random_full_attention(ours: JetNemotronForCausalLM) -> JetNemotronForCausalLM:
    """Such a network, where ours is and of its type."""
    config = ours.config
    assert isinstance(config, JetNemotronConfig)
    return random_network(full_attention_config(config, count(ours)), ours.device, ours.dtype)


def full_attention_config(config: JetNemotronConfig, parameters: int) -> JetNemotronConfig:
    """Return the config of a network of about `parameters` like ours, with full attention in every layer."""
    narrow = count(random_network(_shape(config, _STEP), "meta", torch.float32))
    per_step = 3 * config.hidden_size * config.num_hidden_layers * _STEP
    return _shape(config, _STEP * (1 + max(0, round((parameters - narrow) / per_step))))


def count(model: nn.Module) -> int:
    """Parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _shape(config: JetNemotronConfig, intermediate: int) -> JetNemotronConfig:
    shape = deepcopy(config)
    shape.layer_types = ["attn"] * config.num_hidden_layers
    shape.intermediate_size = intermediate
    return shape
