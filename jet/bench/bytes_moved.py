"""Compute the bytes that decoding or prefill must move at least; see jet/roofline.py for what counts."""

from __future__ import annotations

from jet.modeling import JetNemotronForCausalLM
from jet.modeling.footprint import measure_footprint
from jet.roofline import BytesMoved


def decode_bytes_moved(
    model: JetNemotronForCausalLM, context: int, tokens: int, saved: int = 0
) -> BytesMoved:
    """Return the mean bytes per token of decoding `tokens` tokens after `context` tokens.

    The first token is not counted, since the prefill computes it. `saved`: the bytes of the network's weights
    minus those of the weights that a step reads.
    """
    return measure_footprint(model, saved).decode(context, tokens)


def prefill_bytes_moved(model: JetNemotronForCausalLM, context: int) -> BytesMoved:
    """Return the bytes of a prefill of `context` tokens, independent of the chunk size."""
    return measure_footprint(model).prefill(context)


def batched(one: BytesMoved, writers: int) -> BytesMoved:
    """Return the bytes that a decode step of `writers` sequences moves, given those of one sequence.

    The weights count once, states, keys and values once for each sequence.
    """
    return BytesMoved(
        one.weights,
        *(writers * size for size in (one.recurrent, one.conv, one.window_kv, one.full_kv)),
    )
