"""Attention by PyTorch's SDPA for new tokens after cached ones, without a mask of T × T tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

# Without cuDNN, which PyTorch prefers on Hopper and Blackwell: it spends tens of milliseconds on a plan for
# every new pair of lengths, and the lengths of stories rarely repeat.
_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def sdpa(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None, dropout: float = 0.0
) -> Tensor:
    """Attend causally from the last T of S tokens; no token may be padding.

    Without padding the shapes define the mask, so flash kernels need none. A mask is built only for a window
    shorter than S; its size is bounded by the window and the new tokens.

    Args:
        query: `[B, heads, T, D]`.
        key, value: `[B, kv_heads, S, D]`; in a window layer the cached tokens and the new ones.
        scaling: the factor of the scores before softmax.
        window: most tokens that a query sees, its own included; None for all.
        dropout: the probability of dropping an attention weight.

    Returns:
        `[B, T, heads, D]`.
    """
    new, seen = query.shape[2], key.shape[2]
    given: dict[str, Any] = {
        "scale": scaling,
        "dropout_p": dropout,
        "enable_gqa": query.shape[1] != key.shape[1],
    }
    if window is not None and seen > window:
        # Not all kernels that take masks support grouped-query attention; a window has few keys to repeat.
        if given["enable_gqa"]:
            key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
        given |= {"attn_mask": _band(new, seen, window, query.device), "enable_gqa": False}
    elif new == 1 or new == seen:
        given["is_causal"] = new > 1
    else:
        given["attn_mask"] = causal_lower_right(new, seen)
    with sdpa_kernel(_BACKENDS):
        out = F.scaled_dot_product_attention(query, key, value, **given)
    return out.transpose(1, 2).contiguous()


def _band(new: int, seen: int, window: int, device: torch.device) -> Tensor:
    """Return the sliding-window mask of the last `new` of `seen` tokens, `[T, S]`, True for visible keys."""
    behind = torch.arange(seen - new, seen, device=device)[:, None] - torch.arange(seen, device=device)
    return (behind >= 0) & (behind < window)
