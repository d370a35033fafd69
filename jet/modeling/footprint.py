"""A network's footprint, from its own tensors and sizes."""

from __future__ import annotations

from jet.modeling.config import JetNemotronConfig
from jet.modeling.model import JetNemotronForCausalLM
from jet.modeling.quantization import is_tied
from jet.roofline import Footprint

_STATE_BYTES = 4  # the recurrent state is float32 whatever the type of the weights


def measure_footprint(model: JetNemotronForCausalLM, saved: int = 0) -> Footprint:
    """What this network reads and keeps.

    `saved`: by how many bytes the weights that a step reads are smaller than the network's.
    """
    config = model.config
    assert isinstance(config, JetNemotronConfig)
    layers, jet = config.layer_types or [], config.jet
    recurrent = jet.num_heads * jet.head_dim * jet.head_v_dim * _STATE_BYTES
    token = 2 * config.num_key_value_heads * config.head_dim * model.dtype.itemsize
    return Footprint(
        weights=weight_bytes(model) - saved,
        recurrent=layers.count("jet") * recurrent,
        conv=layers.count("jet") * jet.value_dim * jet.conv_size * model.dtype.itemsize,
        window=(config.sliding_window or 1) - 1,  # the newest token sees itself, which nobody has to read
        window_token=layers.count("swa") * token,
        full_token=layers.count("attn") * token,
        full_attention_token=len(layers) * token,
    )


def weight_bytes(model: JetNemotronForCausalLM) -> int:
    """Bytes of the weights that one token needs."""
    embedding = model.model.embed_tokens.weight
    # Of an embedding that is not the head as well, one row is looked up.
    unread = 0 if is_tied(model) else embedding.nbytes - embedding[:1].nbytes
    return held_bytes(model) - unread


def held_bytes(model: JetNemotronForCausalLM) -> int:
    """Bytes of all weights, tied ones once; quantized ones are buffers."""
    numbers: int = sum(weight.nbytes for weight in model.parameters())
    return numbers + sum(buffer.nbytes for buffer in model.buffers())
