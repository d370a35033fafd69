# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls
"""Lay codes out in blocks of 16 rows, four columns at a time: the compiled half of `jet.ops.blocked`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from jet.ops.numba.bound_operation import array
from jet.ops.numba.kernels import kernel

_ROWS = 16


@kernel
def _lay_out(source, out, first):
    """Write rows `[N, words]` to blocks `[blocks, words of a block, 16]`, from row `first` on."""
    rows, words = source.shape
    row = 0
    while row < rows:
        place = first + row
        block, lane = place // _ROWS, place % _ROWS
        if lane == 0 and rows - row >= _ROWS:
            for word in range(words):
                for one in range(_ROWS):
                    out[block, word, one] = source[row + one, word]
            row += _ROWS
        else:
            for word in range(words):
                out[block, word, lane] = source[row, word]
            row += 1


@kernel
def _fill(out, words, rows):
    """Set the padding to zero: columns from `words` on, and the rows of the last block from `rows` on."""
    blocks, width, _ = out.shape
    for block in range(blocks):
        for word in range(words, width):
            for lane in range(_ROWS):
                out[block, word, lane] = np.int32(0)
    for lane in range(rows - (blocks - 1) * _ROWS, _ROWS):
        for word in range(width):
            out[blocks - 1, word, lane] = np.int32(0)


def lay_out(parts: list[Tensor], out: Tensor) -> None:
    """Write the rows of all `parts`, codes `[rows, bytes]`, in order to blocks `[blocks, words, 16, 4]`.

    The rest of the blocks is set to zero. All tensors are contiguous and on the CPU; the bytes of a row are a
    multiple of 4.
    """
    blocks, first = array(out.view(torch.int32).squeeze(-1)), 0
    for part in parts:
        words = array(part.view(torch.int32))
        _lay_out(words, blocks, first)
        first += len(part)
    _fill(blocks, parts[0].shape[1] // 4, first)
