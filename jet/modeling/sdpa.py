"""sdpa for tokens that have others before them, without a mask as large as tokens times tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

# Not cuDNN, which PyTorch prefers on Hopper and Blackwell: for every pair of lengths that it has not seen, it
# spends tens of milliseconds on a plan, and stories hardly ever have the same lengths.
_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def sdpa(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None, dropout: float = 0.0
) -> Tensor:
    """Attention of the last T of S tokens, none of them padding, each over itself and those before it.

    Where nothing is padding the shape says everything, and flash kernels need no mask. One is made only where
    a window cuts into what is there, no longer than the window and the new tokens.

    Args:
        query: `[B, heads, T, D]`.
        key, value: `[B, kv_heads, S, D]`; of a window layer what its cache has kept, with the new ones.
        window: how many tokens a query sees, itself included; None for all.

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
        # Kernels that take masks do not all know that heads share keys, and a window has few of them.
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
    """Which of `seen` keys each of the last `new` tokens sees, `[T, S]`."""
    behind = torch.arange(seen - new, seen, device=device)[:, None] - torch.arange(seen, device=device)
    return (behind >= 0) & (behind < window)
