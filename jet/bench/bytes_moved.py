"""The floor of a network at a length: the bytes that cannot but be moved. What they are: jet/roofline.py."""

from __future__ import annotations

from jet.modeling import JetNemotronForCausalLM
from jet.modeling.footprint import measure_footprint
from jet.roofline import BytesMoved


def decode_bytes_moved(
    model: JetNemotronForCausalLM, context: int, tokens: int, saved: int = 0
) -> BytesMoved:
    """Return bytes per token of decoding `tokens` after `context`, without the first: the prompt brings it.

    `saved`: by how many bytes the weights that a step reads are smaller than the network's.
    """
    return measure_footprint(model, saved).decode(context, tokens)


def prefill_bytes_moved(model: JetNemotronForCausalLM, context: int) -> BytesMoved:
    """Return bytes of reading `context` tokens, however many at once."""
    return measure_footprint(model).prefill(context)


def batched(one: BytesMoved, writers: int) -> BytesMoved:
    """Return the bytes of one step of a batch."""
    return BytesMoved(
        one.weights,
        *(writers * size for size in (one.recurrent, one.conv, one.window_kv, one.full_kv)),
    )
