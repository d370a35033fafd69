"""Attention masks for padded batches: every row gives the result that it gives without padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from jet.modeling.cache import HybridCache, WindowAttentionCache
from jet.modeling.config import JetNemotronConfig


def full_padding_mask(
    attention_mask: Tensor | None, hidden: Tensor, past: HybridCache | None
) -> Tensor | None:
    """Return the padding mask of past and new tokens, `[B, past + T]`, False at padding; None for no padding.

    Without `attention_mask`, the mask is the cache's, and no new token is padding. Raises ValueError for a
    mask of another shape or with values other than 0 and 1, and for one that contradicts the cache about past
    tokens.
    """
    batch, new = hidden.shape[:2]
    seen = 0 if past is None else past.get_seq_length()
    before = None if past is None else past.padding_mask
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
    padding_mask = attention_mask.to(device=hidden.device, dtype=torch.bool)
    if not bool((attention_mask.to(hidden.device) == padding_mask).all()):
        raise ValueError(
            "attention_mask must hold 0 at padding and 1 elsewhere; numbers of texts go into seq_idx."
        )
    if not torch.equal(padding_mask[:, :seen], before.to(hidden.device)):
        raise ValueError(
            "attention_mask says something else of the tokens in past_key_values than when they were read, "
            "and a recurrent state cannot take that back."
        )
    return None if bool(padding_mask.all()) else padding_mask


def positions_of(padding_mask: Tensor | None, hidden: Tensor, seen: int) -> Tensor:
    """Return the positions `[B or 1, T]` of the new tokens. Padding is not counted; `seen`: past tokens."""
    if padding_mask is None:
        return torch.arange(seen, seen + hidden.shape[1], device=hidden.device)[None]
    return (padding_mask.long().cumsum(-1) - 1).clamp(min=0)[:, seen:]


def causal_mask(padding_mask: Tensor, tokens: int, window: int | None = None) -> Tensor:
    """Build the mask `[B, 1, T, S]`: each of the last T of S tokens sees itself and unpadded earlier tokens.

    Args:
        padding_mask: `[B, S]`, False at padding.
        tokens: T.
        window: most unpadded tokens that a token sees, itself included; None for all.
    """
    order = padding_mask.long().cumsum(-1)
    behind = order[:, -tokens:, None] - order[:, None, :]
    sees = padding_mask[:, None, :] & (behind >= 0)
    if window is not None:
        sees &= behind < window
    places = torch.arange(padding_mask.shape[1], device=padding_mask.device)
    # Padding sees itself, because an empty row of softmax gives NaN, which would spread.
    return (sees | (places == places[-tokens:, None]))[:, None]


def make_masks(
    config: JetNemotronConfig, hidden: Tensor, padding_mask: Tensor | None, past: HybridCache | None
) -> dict[str, Any]:
    """Build layer type → mask for T new tokens; call `past.extend` first.

    Args:
        config: names the layer types and the attention implementation.
        hidden: `[B, T, hidden]`.
        padding_mask: `[B, past + T]`, False at padding; None if there is none.
        past: the cache of the tokens before; None without a cache.
    """
    kinds, new = config.layer_types or [], hidden.shape[1]
    if padding_mask is None:
        return _without_padding(config, hidden, past)
    masks: dict[str, Any] = {"jet": padding_mask[:, -new:]}
    for kind, window in (("attn", None), ("swa", config.sliding_window)):
        if kind not in kinds:
            continue
        seen = padding_mask
        if past is not None and kind == "swa":
            layer = past.layers[kinds.index(kind)]
            assert isinstance(layer, WindowAttentionCache)
            seen = layer.kv_padding_mask(new, hidden.shape[0], hidden.device)
        if "flash" in (config._attn_implementation or ""):
            masks[kind] = seen  # flash-attn drops padding and counts the window without it
            continue
        sees = masks[kind] = causal_mask(seen, new, window)
        if config._attn_implementation != "sdpa":
            low = torch.finfo(hidden.dtype).min
            masks[kind] = torch.zeros_like(sees, dtype=hidden.dtype).masked_fill(~sees, low)
    return masks


def _without_padding(config: JetNemotronConfig, hidden: Tensor, past: HybridCache | None) -> dict[str, Any]:
    kinds = config.layer_types or []
    masks: dict[str, Any] = {"jet": None, "attn": None, "swa": None}
    if config._attn_implementation == "sdpa":
        return masks  # without padding SDPA needs none, see jet/modeling/sdpa.py
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
