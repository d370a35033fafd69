"""Which tokens are padding, and who sees whom where some are: each row as if it had been written without."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from jet.modeling.cache import HybridCache, WindowAttentionCache
from jet.modeling.config import JetNemotronConfig


def read_mask(attention_mask: Tensor | None, hidden: Tensor, past: HybridCache | None) -> Tensor | None:
    """Which of all tokens are real, `[B, past + T]`; None if all are.

    What the cache has read stays what it was: without a mask the new tokens are real, and a mask that says
    otherwise of the past is a ValueError, as is one of another form.
    """
    batch, new = hidden.shape[:2]
    seen = 0 if past is None else past.get_seq_length()
    before = None if past is None else past.real
    if attention_mask is None and before is None:
        return None
    if before is None:
        before = torch.ones(batch, seen, dtype=torch.bool, device=hidden.device)
    if attention_mask is None:
        return torch.cat([before, before.new_ones(batch, new)], dim=1).to(hidden.device)
    if tuple(attention_mask.shape) != (batch, seen + new):
        raise ValueError(
            f"attention_mask must be [batch, past + new tokens] = {[batch, seen + new]}, "
            f"not {list(attention_mask.shape)}; a recurrent layer takes no masks that say who sees whom."
        )
    real = attention_mask.to(device=hidden.device, dtype=torch.bool)
    if not bool((attention_mask.to(hidden.device) == real).all()):
        raise ValueError(
            "attention_mask must hold 0 at padding and 1 elsewhere; numbers of texts go into seq_idx."
        )
    if not torch.equal(real[:, :seen], before.to(hidden.device)):
        raise ValueError(
            "attention_mask says something else of the tokens in past_key_values than when they were read, "
            "and a recurrent state cannot take that back."
        )
    return None if bool(real.all()) else real


def positions_of(real: Tensor | None, hidden: Tensor, seen: int) -> Tensor:
    """Positions `[B or 1, T]` of the new tokens, counted without padding."""
    if real is None:
        return torch.arange(seen, seen + hidden.shape[1], device=hidden.device)[None]
    return (real.long().cumsum(-1) - 1).clamp(min=0)[:, seen:]


def visible(real: Tensor, tokens: int, window: int | None = None) -> Tensor:
    """Which of S tokens each of the last T sees, `[B, 1, T, S]`: itself, and real ones before it.

    Args:
        real: `[B, S]`, False at padding.
        tokens: T.
        window: how many real tokens one sees at most, itself included; None for all.
    """
    order = real.long().cumsum(-1)
    behind = order[:, -tokens:, None] - order[:, None, :]
    sees = real[:, None, :] & (behind >= 0)
    if window is not None:
        sees &= behind < window
    places = torch.arange(real.shape[1], device=real.device)
    # Padding sees itself besides: numbers that are none would spread from it.
    return (sees | (places == places[-tokens:, None]))[:, None]


def make_masks(
    config: JetNemotronConfig, hidden: Tensor, real: Tensor | None, past: HybridCache | None
) -> dict[str, Any]:
    """What each kind of layer wants as its mask, for T tokens that `past` has been told of.

    Args:
        hidden: `[B, T, hidden]`.
        real: `[B, past + T]`, False at padding; None if there is none.
    """
    kinds, new = config.layer_types or [], hidden.shape[1]
    if real is None:
        return _without_padding(config, hidden, past)
    masks: dict[str, Any] = {"jet": real[:, -new:]}
    for kind, window in (("attn", None), ("swa", config.sliding_window)):
        if kind not in kinds:
            continue
        seen = real
        if past is not None and kind == "swa":
            layer = past.layers[kinds.index(kind)]
            assert isinstance(layer, WindowAttentionCache)
            seen = layer.seen(new, hidden.shape[0], hidden.device)
        if "flash" in (config._attn_implementation or ""):
            masks[kind] = seen  # these leave padding out and count what remains
            continue
        sees = masks[kind] = visible(seen, new, window)
        if config._attn_implementation != "sdpa":
            low = torch.finfo(hidden.dtype).min
            masks[kind] = torch.zeros_like(sees, dtype=hidden.dtype).masked_fill(~sees, low)
    return masks


def _without_padding(config: JetNemotronConfig, hidden: Tensor, past: HybridCache | None) -> dict[str, Any]:
    kinds = config.layer_types or []
    masks: dict[str, Any] = {"jet": None, "attn": None, "swa": None}
    if config._attn_implementation == "sdpa":
        return masks  # the shapes say everything; see jet/modeling/sdpa.py
    given: dict[str, Any] = {
        "config": config,
        "inputs_embeds": hidden,
        "attention_mask": None,
        "past_key_values": past,
    }
    if "attn" in kinds:
        masks["attn"] = create_causal_mask(**given)
    if "swa" in kinds:
        masks["swa"] = create_sliding_window_causal_mask(**given)
    return masks
