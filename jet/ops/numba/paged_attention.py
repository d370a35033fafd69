"""Attention of one new token per row to pages or a ring: compiled implementations of `jet.ops.attention`.

A ring is treated as a page that is as long as the window and has the slot's number, so one kernel serves
both.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from jet.ops.numba import kernels
from jet.ops.numba.bound_operation import BindableOp, BoundOp, array

Array = npt.NDArray[Any]


@BindableOp
def attend_pages(
    projected: Tensor,
    cos: Tensor,
    sin: Tensor,
    position: Tensor,
    slots: Tensor,
    page_table: Tensor,
    pages: Tensor,
    out: Tensor,
) -> BoundOp:
    """Compute the same as `attend_pages_reference`; a `BindableOp`."""
    _, _, kv_heads, page, dim = pages.shape
    rows = array(pages).reshape(-1, dim)
    given = (projected, cos, sin, position, slots, page_table)
    return _bind(*given, rows, rows[kv_heads * page :], kv_heads, page, 2 * kv_heads * page, out)


@BindableOp
def attend_window(
    projected: Tensor,
    cos: Tensor,
    sin: Tensor,
    position: Tensor,
    slots: Tensor,
    window_keys: Tensor,
    window_values: Tensor,
    out: Tensor,
) -> BoundOp:
    """Compute the same as `attend_window_reference`; a `BindableOp`."""
    places, kv_heads, window, dim = window_keys.shape
    page_table = torch.arange(places, dtype=torch.int32)[:, None]
    keys, values = (array(ring).reshape(-1, dim) for ring in (window_keys, window_values))
    given = (projected, cos, sin, position, slots, page_table)
    return _bind(*given, keys, values, kv_heads, window, kv_heads * window, out)


def _bind(
    projected: Tensor,
    cos: Tensor,
    sin: Tensor,
    position: Tensor,
    slots: Tensor,
    page_table: Tensor,
    keys: Array,
    values: Array,
    kv_heads: int,
    page: int,
    stride: int,
    out: Tensor,
) -> BoundOp:
    """Bind the attention kernel to keys and values `[rows, D]`.

    Each page has `page` rows for each head; pages begin `stride` rows apart.
    """
    _check(projected, cos, sin, out, kv_heads, keys.shape[-1])
    rows = map(array, (projected, cos, sin, position, slots, page_table))
    return partial(kernels.attend, *rows, keys, values, kv_heads, page, stride, array(out))


def _check(projected: Tensor, cos: Tensor, sin: Tensor, out: Tensor, kv_heads: int, dim: int) -> None:
    """Raise ValueError unless all shapes fit `kv_heads` key-value heads of `dim` channels."""
    batch, channels = out.shape
    grouped = channels % (kv_heads * dim) == 0
    if not grouped or projected.shape != (batch, channels + 2 * kv_heads * dim):
        raise ValueError(
            f"projections {list(projected.shape)} and output {list(out.shape)} do not fit "
            f"{kv_heads} key-value heads of {dim}."
        )
    if cos.shape != (batch, dim) or sin.shape != (batch, dim):
        raise ValueError(f"rotations {list(cos.shape)} and {list(sin.shape)} should be {[batch, dim]}.")
