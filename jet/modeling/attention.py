"""Attention: grouped-query attention with rotary positions, full or over a sliding window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from jet.modeling.cache import HybridCache
from jet.modeling.config import JetNemotronConfig
from jet.modeling.layers import Linear
from jet.modeling.sdpa import sdpa
from jet.ops.precision import upcast

Rotation = tuple[Tensor, Tensor]  # cosine and sine, [B or 1, T, head_dim]


class Attention(nn.Module):
    """Grouped-query attention with rotary positions, full or over a sliding window."""

    def __init__(self, config: JetNemotronConfig, layer_idx: int, window: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = True
        self.sliding_window = window
        self.q_proj = Linear(config.hidden_size, config.num_attention_heads * config.head_dim, bias=True)
        self.k_proj = Linear(config.hidden_size, config.num_key_value_heads * config.head_dim, bias=True)
        self.v_proj = Linear(config.hidden_size, config.num_key_value_heads * config.head_dim, bias=True)
        self.o_proj = Linear(config.num_attention_heads * config.head_dim, config.hidden_size, bias=False)

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        rotation: Rotation,
        cache: HybridCache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Mix tokens `[B, T, hidden]`; return the same shape, and the attention weights or None.

        `mask` is one that `make_masks` builds for the attention implementation. Flash and SDPA
        implementations do not return weights.
        """
        heads = (-1, self.head_dim)
        q = rotate(self.q_proj(hidden).unflatten(-1, heads).transpose(1, 2), rotation)
        k = rotate(self.k_proj(hidden).unflatten(-1, heads).transpose(1, 2), rotation)
        v = self.v_proj(hidden).unflatten(-1, heads).transpose(1, 2)
        if cache is not None:
            k, v = cache.update(k, v, self.layer_idx)
        dropout = self.attention_dropout if self.training else 0.0
        if mask is None and self.config._attn_implementation == "sdpa":
            out = sdpa(q, k, v, self.scaling, self.sliding_window, dropout)
            return self.o_proj(out.flatten(-2)), None
        if k.shape[2] == 1 and mask is not None and not dropout and self._packs_rows:
            # A token that sees only itself gets its own value. Rows that begin with padding would give
            # flash-attn fewer queries than rows, which its path for one query a row does not support.
            return self.o_proj(v.repeat_interleave(self.num_key_value_groups, 1).flatten(1)[:, None]), None
        attend: Callable[..., tuple[Tensor, Tensor | None]] = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention
        )
        out, weights = attend(
            self,
            q,
            k,
            v,
            mask,
            dropout=dropout,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            **kwargs,
        )
        return self.o_proj(out.flatten(-2)), weights

    @property
    def _packs_rows(self) -> bool:
        """Return whether the attention implementation removes padding instead of masking it."""
        return "flash" in (self.config._attn_implementation or "")


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Apply the rotary embedding to `[B, heads, T, head_dim]`; it pairs dimensions i and i + head_dim / 2."""
    cos, sin = (part.unsqueeze(1) for part in rotation)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def rotary_angles(config: JetNemotronConfig, positions: Tensor, dtype: torch.dtype) -> Rotation:
    """Return cosine and sine `[B or 1, T, head_dim]` for `positions` `[B or 1, T]`.

    They are computed in float32 and returned in `dtype`.
    """
    exponents = (
        torch.arange(0, config.head_dim, 2, device=positions.device, dtype=torch.float32) / config.head_dim
    )
    angles = positions[..., None] * config.rope_theta**-exponents
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attend by definition, with an additive mask and softmax in at least float32.

    Returns the output `[B, T, heads, head_dim]` and the weights `[B, heads, T, S]`.
    """
    groups = module.num_key_value_groups
    assert isinstance(groups, int)
    scores = query.unflatten(1, (-1, groups)) @ key.unsqueeze(2).transpose(-1, -2) * scaling
    if mask is not None:
        scores = scores + mask.unsqueeze(1)
    weights = F.dropout(upcast(scores).softmax(-1).to(query.dtype), dropout, module.training)
    out = weights @ value.unsqueeze(2)
    return out.flatten(1, 2).transpose(1, 2), weights.flatten(1, 2)
