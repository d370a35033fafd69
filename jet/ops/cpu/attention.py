"""Attention of one new token per row, over pages or a ring: the compiled twins of `jet.ops.attention`.

A ring is a page that is as long as the window and whose number is the slot, so one kernel serves both.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from jet.ops.cpu import compiled
from jet.ops.cpu.binding import Bound, Operation, array


@Operation
def attend_pages(
    projected: Tensor,
    cos: Tensor,
    sin: Tensor,
    position: Tensor,
    slots: Tensor,
    table: Tensor,
    pages: Tensor,
    out: Tensor,
) -> Bound:
    """Twin of `attend_pages_reference`, as an `Operation`."""
    _, _, kv_heads, page, dim = pages.shape
    rows = array(pages).reshape(-1, dim)
    keys, values = rows, rows[kv_heads * page :]
    _check(projected, cos, sin, out, kv_heads, dim)
    return partial(
        compiled.attend,
        array(projected),
        array(cos),
        array(sin),
        array(position),
        array(slots),
        array(table),
        keys,
        values,
        kv_heads,
        page,
        2 * kv_heads * page,
        array(out),
    )


@Operation
def attend_window(
    projected: Tensor,
    cos: Tensor,
    sin: Tensor,
    position: Tensor,
    slots: Tensor,
    window_keys: Tensor,
    window_values: Tensor,
    out: Tensor,
) -> Bound:
    """Twin of `attend_window_reference`, as an `Operation`."""
    places, kv_heads, window, dim = window_keys.shape
    table = torch.arange(places, dtype=torch.int32)[:, None]
    keys, values = (array(ring).reshape(-1, dim) for ring in (window_keys, window_values))
    _check(projected, cos, sin, out, kv_heads, dim)
    return partial(
        compiled.attend,
        array(projected),
        array(cos),
        array(sin),
        array(position),
        array(slots),
        array(table),
        keys,
        values,
        kv_heads,
        window,
        kv_heads * window,
        array(out),
    )


def _check(projected: Tensor, cos: Tensor, sin: Tensor, out: Tensor, kv_heads: int, dim: int) -> None:
    """ValueError unless projections, rotations and output belong to key-value heads of this size."""
    batch, channels = out.shape
    grouped = channels % (kv_heads * dim) == 0
    if not grouped or projected.shape != (batch, channels + 2 * kv_heads * dim):
        raise ValueError(
            f"projections {list(projected.shape)} and output {list(out.shape)} do not fit "
            f"{kv_heads} key-value heads of {dim}."
        )
    if cos.shape != (batch, dim) or sin.shape != (batch, dim):
        raise ValueError(f"rotations {list(cos.shape)} and {list(sin.shape)} should be {[batch, dim]}.")
