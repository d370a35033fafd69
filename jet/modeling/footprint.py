"""Measure a network's footprint from its tensors and sizes."""

from __future__ import annotations

from jet.modeling.config import JetNemotronConfig
from jet.modeling.model import JetNemotronForCausalLM
from jet.modeling.quantization import is_tied
from jet.roofline import Footprint

_STATE_BYTES = 4  # the recurrent state is float32 whatever the type of the weights


def measure_footprint(model: JetNemotronForCausalLM, saved: int = 0) -> Footprint:
    """Return the bytes that this network reads for a token and caches for a story.

    `saved`: bytes that a decode step saves by storing weights in a smaller form than the network.
    """
    config = model.config
    assert isinstance(config, JetNemotronConfig)
    layers, jet = config.layer_types or [], config.jet
    recurrent = jet.num_heads * jet.head_dim * jet.head_v_dim * _STATE_BYTES
    token = 2 * config.num_key_value_heads * config.head_dim * model.dtype.itemsize
    return Footprint(
        weights=decode_weight_bytes(model) - saved,
        recurrent=layers.count("jet") * recurrent,
        conv=layers.count("jet") * jet.value_dim * jet.conv_size * model.dtype.itemsize,
        window=(config.sliding_window or 1) - 1,  # the newest token is not read from the cache
        window_token=layers.count("swa") * token,
        full_token=layers.count("attn") * token,
        full_attention_token=len(layers) * token,
    )


def decode_weight_bytes(model: JetNemotronForCausalLM) -> int:
    """Count the bytes of weights that decoding one token reads."""
    embedding = model.model.embed_tokens.weight
    # An untied embedding is read one row a token.
    unread = 0 if is_tied(model) else embedding.nbytes - embedding[:1].nbytes
    return total_weight_bytes(model) - unread


def total_weight_bytes(model: JetNemotronForCausalLM) -> int:
    """Count the bytes of all weights, tied ones once. Quantized weights are buffers."""
    parameters: int = sum(weight.nbytes for weight in model.parameters())
    return parameters + sum(buffer.nbytes for buffer in model.buffers())
