"""Store quantized weights in blocks for a CPU, whose integer dot products take four columns at a time.

A block has 16 rows. It stores their first four columns row by row, a vector of 64 bytes, then their next four
columns, and so on. A product thus reads the weight sequentially.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from jet.hardware import using_threads
from jet.huge_pages import empty_in_huge_pages
from jet.ops.quantization import GROUP_SIZE, INT4, QuantizedTensor

ROWS, COLUMNS = 16, 4
_AT_ONCE = 2**21  # bytes that are rearranged at once


@dataclass(frozen=True, eq=False)
class BlockedTensor(QuantizedTensor):
    """A `QuantizedTensor` matrix in blocks, or a range of its rows.

    Attributes:
        qweight: int8 or uint8 `[blocks, span / 4, 16, 4]`. The bytes of a row are padded to `span`, a
            multiple of 64, and the rows to a multiple of 16.
        scales: float32 `[blocks * 16]` for int8; for int4 float16 `[blocks, 2 * groups, 16]`.
        first: the index in `qweight` of the first row of the range.
        rows: the number of rows.
    """

    first: int
    rows: int

    @property
    def scheme(self) -> str:
        """Return the quantization scheme, one of SCHEMES."""
        return QuantizedTensor.scheme.fget(self)  # type: ignore[attr-defined,no-any-return]

    @property
    def row_bytes(self) -> int:
        """Return the bytes of a row without padding."""
        return -(-self.columns // 2) if self.scheme == INT4 else self.columns

    @property
    def padded_row_bytes(self) -> int:
        """Return the bytes of a row with padding."""
        return COLUMNS * self.qweight.shape[1]

    @property
    def shape(self) -> torch.Size:
        """Return the shape `[N, C]` of the matrix."""
        return torch.Size((self.rows, self.columns))

    @property
    def nbytes(self) -> int:
        """Return the bytes of these rows' quantized values and scales, with the padding of each row."""
        return (self.qweight.nbytes + self.scales.nbytes) * self.rows // max(1, ROWS * len(self.qweight))

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, rows: slice | Tensor) -> QuantizedTensor:
        """Return some rows: a view for a slice without steps, a copy for indices."""
        if isinstance(rows, slice):
            begin, end, step = rows.indices(self.rows)
            if step == 1:
                held = self.qweight, self.scales, self.columns, self.dtype
                return BlockedTensor(*held, self.first + begin, max(0, end - begin))
            rows = torch.arange(begin, end, step)
        blocks, lanes = (rows + self.first) // ROWS, (rows + self.first) % ROWS
        qweight = self.qweight[blocks, :, lanes].flatten(1)[:, : self.row_bytes]
        if self.scheme == INT4:
            return QuantizedTensor(qweight, self.scales[blocks, :, lanes], self.columns, self.dtype)
        return QuantizedTensor(qweight, self.scales[rows + self.first], self.columns, self.dtype)

    def plain(self) -> QuantizedTensor:
        """Return a copy in the layout of `QuantizedTensor`, row by row."""
        return self[torch.arange(self.rows)]

    def dequantize(self, dtype: torch.dtype | None = None, out: Tensor | None = None) -> Tensor:
        """Return the dequantized matrix `[N, C]` in `dtype`, by default its own, or write it to `out`."""
        return self.plain().dequantize(dtype, out)

    def quantize_rows(self, begin: int, weights: Tensor) -> None:
        """Raise TypeError: a matrix in blocks cannot be changed."""
        raise TypeError("A matrix in blocks cannot be written to.")


def in_blocks(weight: QuantizedTensor) -> BlockedTensor:
    """Return a copy of a matrix in blocks, or the matrix itself if it is in blocks already."""
    return weight if isinstance(weight, BlockedTensor) else stacked_in_blocks([weight])


def stacked_in_blocks(parts: Sequence[QuantizedTensor]) -> BlockedTensor:
    """Concatenate the rows of matrices that are not in blocks; return the result in blocks."""
    weight, rows, span = parts[0], sum(map(len, parts)), parts[0].row_bytes
    blocks, words = -(-rows // ROWS), -(-span // GROUP_SIZE) * GROUP_SIZE // COLUMNS
    qweight = empty_in_huge_pages(blocks, words, ROWS, COLUMNS, dtype=weight.qweight.dtype)
    codes = [part.qweight for part in parts]
    compiled = _compiled_layout()
    with using_threads(1):  # moving so little takes less than a second thread that waits
        if compiled is not None and all(_suits_layout(one) for one in codes):
            compiled(codes, qweight)
        else:
            _lay_out(codes, qweight)
        scales = torch.cat([part.scales for part in parts])
        if blocks * ROWS > rows:
            scales = F.pad(scales, (0, 0) * (scales.dim() - 1) + (0, blocks * ROWS - rows))
        if weight.scheme == INT4:
            scales = scales.view(blocks, ROWS, -1).transpose(1, 2).contiguous()
    return BlockedTensor(qweight, scales, weight.columns, weight.dtype, 0, rows)


def _suits_layout(codes: Tensor) -> bool:
    """Return whether the compiled layout takes these codes `[rows, bytes]`."""
    whole = codes.shape[0] > 0 and codes.shape[1] % COLUMNS == 0 and codes.data_ptr() % COLUMNS == 0
    return whole and codes.is_contiguous()


@cache
def _compiled_layout() -> Callable[[list[Tensor], Tensor], None] | None:
    """Return the compiled version of `_lay_out`; None if numba is missing or fails."""
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        from jet.ops.numba.block_layout import lay_out
    except Exception:  # `numba_backend` says so
        return None
    return lay_out


def _lay_out(parts: list[Tensor], out: Tensor) -> None:
    """Write the rows of all `parts`, codes `[rows, bytes]`, in order to blocks `[blocks, words, 16, 4]`."""
    (blocks, words), span = out.shape[:2], parts[0].shape[1]
    step = max(1, _AT_ONCE // (words * ROWS * COLUMNS))
    for begin in range(0, blocks, step):
        some = _rows(parts, begin * ROWS, (begin + step) * ROWS)
        padding = words * COLUMNS - span, -len(some) % ROWS
        padded = F.pad(some, (0, padding[0], 0, padding[1])) if any(padding) else some.contiguous()
        # Four columns at a time as one number, which is moved as a whole.
        fours = padded.view(torch.int32).view(-1, ROWS, words).transpose(1, 2)
        out[begin : begin + step].view(torch.int32).squeeze(-1).copy_(fours)


def _rows(parts: Sequence[Tensor], begin: int, end: int) -> Tensor:
    """Return rows `begin` to `end` of the concatenation of matrices; a view if they are all of one matrix."""
    found, first = [], 0
    for part in parts:
        some = part[max(0, begin - first) : max(0, end - first)]
        found += [some] if len(some) else []
        first += len(part)
    return found[0] if len(found) == 1 else torch.cat(found)


def joined(parts: Sequence[QuantizedTensor]) -> BlockedTensor | None:
    """Return one matrix with the rows of all `parts`, which shares their memory.

    Returns None unless the parts are consecutive row ranges of the same blocks.
    """
    first = parts[0]
    if not isinstance(first, BlockedTensor):
        return None
    row = first.first
    for part in parts:
        if not isinstance(part, BlockedTensor) or part.qweight is not first.qweight or part.first != row:
            return None
        row += part.rows
    return replace(first, rows=row - first.first)


def in_rows(weight: QuantizedTensor) -> QuantizedTensor:
    """Return a matrix in rows: a copy if it is in blocks, otherwise itself."""
    return weight.plain() if isinstance(weight, BlockedTensor) else weight
