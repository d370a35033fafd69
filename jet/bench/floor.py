"""The least that must be moved: bytes of this network at this length, from its own tensors and sizes.

One decoded token reads every weight once (of an embedding that is not the head as well only one row), reads
and writes the recurrent and convolution state, and reads the keys and values of all tokens before it. Reading
a prompt can do with the weights once, and writes what is to be remembered. No time is shorter than that of
moving these bytes: the floor.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from jet.modeling import JetNemotronConfig, JetNemotronForCausalLM

_STATE_BYTES = 4  # the recurrent state is float32 whatever the type of the weights


@dataclass(frozen=True)
class Floor:
    """Bytes that must be moved, by what they are; means over the tokens where they grow with the text."""

    weights: int
    recurrent: int
    conv: int
    window_kv: int
    full_kv: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.recurrent + self.conv + self.window_kv + self.full_kv


def decode_floor(model: JetNemotronForCausalLM, context: int, tokens: int, saved: int = 0) -> Floor:
    """Bytes per token of decoding `tokens` tokens after `context`, the first left out: it is the prompt's.

    `saved`: by how many bytes the weights that a step reads are smaller than the network's.
    """
    recurrent, conv = _state_bytes(model)
    window_kv, full_kv = _kv_bytes(model, context, context + max(tokens - 1, 1))
    return Floor(weight_bytes(model) - saved, 2 * recurrent, 2 * conv, window_kv, full_kv)


def prefill_floor(model: JetNemotronForCausalLM, context: int) -> Floor:
    """Bytes of reading `context` tokens, however many at once."""
    recurrent, conv = _state_bytes(model)
    window_kv, full_kv = _kv_bytes(model, context, context + 1)
    return Floor(weight_bytes(model), recurrent, conv, window_kv, full_kv)


def weight_bytes(model: JetNemotronForCausalLM) -> int:
    """Bytes of the weights that one token needs."""
    weights: int = sum(weight.nbytes for weight in model.parameters())  # a tied head is listed once
    embedding: Tensor = model.model.embed_tokens.weight
    if embedding is model.lm_head.weight:
        return weights
    return weights - embedding.nbytes + embedding[0].nbytes  # one row is looked up


def _state_bytes(model: JetNemotronForCausalLM) -> tuple[int, int]:
    """Bytes of the recurrent and of the convolution state."""
    config = _config(model)
    jet, layers = config.jet, _layers(config, "jet")
    recurrent = jet.num_heads * jet.head_dim * jet.head_v_dim * _STATE_BYTES
    return layers * recurrent, layers * jet.value_dim * jet.conv_size * model.dtype.itemsize


def _kv_bytes(model: JetNemotronForCausalLM, first: int, end: int) -> tuple[int, int]:
    """Bytes of window and of full keys and values, the mean over the lengths from `first` to `end` - 1."""
    config = _config(model)
    token = 2 * config.num_key_value_heads * config.head_dim * model.dtype.itemsize
    # The newest token sees itself, which nobody has to read.
    window = (config.sliding_window or 1) - 1
    kept = sum(min(length, window) for length in range(first, end)) / (end - first)
    whole = (first + end - 1) / 2
    return round(_layers(config, "swa") * kept * token), round(_layers(config, "attn") * whole * token)


def _layers(config: JetNemotronConfig, layer_type: str) -> int:
    return (config.layer_types or []).count(layer_type)


def _config(model: JetNemotronForCausalLM) -> JetNemotronConfig:
    assert isinstance(model.config, JetNemotronConfig)
    return model.config
