"""Weight quantization: the int8 and int4 formats, and how a matrix is quantized.

int8 has one scale for each output row, int4 one for each group of `GROUP_SIZE` inputs. In int4, a byte holds
the codes of two columns: one of the row's first half, and the one at the same place in its second half. Bytes
loaded in order thus give two runs of consecutive columns.

Scales minimize the squared error. For int4 the best of a few candidates is taken, which clip more or less of
a group's largest weight. Rows are quantized independently, so splitting a matrix does not change its codes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

INT8, INT4 = "int8", "int4"
SCHEMES = (INT8, INT4)
GROUP_SIZE = 64  # inputs of an int4 row that share a scale
CHUNK = 2**18  # weights that are quantized at once; some twenty bytes each, which a cache of a core holds

# What the code of a group's largest weight would be without bounds, which are -8 and 7. More hardly help.
_INT4_PEAKS = (-8.0, -9.0, 7.0, 7.5)


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A quantized matrix `[N, C]`.

    Attributes:
        qweight: int8 `[N, C]`; for int4 uint8 `[N, ceil(C / 2)]` with two codes a byte, 8 added to each. The
            low bits hold a column of the row's first half, the high bits one of its second half.
        scales: float32 `[N]` for int8. For int4 float16 `[N, 2 * groups]`: the groups of the first half, then
            those of the second; each half's last group may be short.
        columns: C.
        dtype: the dtype of the dequantized weights.
    """

    qweight: Tensor
    scales: Tensor
    columns: int
    dtype: torch.dtype

    @property
    def scheme(self) -> str:
        """Return the quantization scheme, one of SCHEMES."""
        return INT8 if self.qweight.dtype == torch.int8 else INT4

    @property
    def row_bytes(self) -> int:
        """Return the bytes of a row."""
        return self.qweight.shape[1]

    @property
    def shape(self) -> torch.Size:
        """Return the shape `[N, C]` of the matrix."""
        return torch.Size((len(self.qweight), self.columns))

    @property
    def nbytes(self) -> int:
        """Return the bytes of quantized values and scales."""
        return self.qweight.nbytes + self.scales.nbytes

    @property
    def device(self) -> torch.device:
        """Return the device of the tensors."""
        return self.qweight.device

    @property
    def is_cuda(self) -> bool:
        """Return whether the tensors are on a CUDA GPU."""
        return self.qweight.is_cuda

    def __len__(self) -> int:
        return len(self.qweight)

    def __getitem__(self, rows: slice | Tensor) -> QuantizedTensor:
        """Return some rows: a view for a slice, a copy for indices."""
        return QuantizedTensor(self.qweight[rows], self.scales[rows], self.columns, self.dtype)

    def numel(self) -> int:
        """Return the number of weights."""
        return self.shape.numel()

    def data_ptr(self) -> int:
        """Return the address of `qweight`."""
        return self.qweight.data_ptr()

    def is_contiguous(self) -> bool:
        """Return whether the rows are contiguous in memory."""
        return self.qweight.is_contiguous() and self.scales.is_contiguous()

    def float(self) -> Tensor:
        """Return the dequantized matrix `[N, C]` in float32."""
        return self.dequantize(torch.float32)

    def dequantize(self, dtype: torch.dtype | None = None, out: Tensor | None = None) -> Tensor:
        """Return the dequantized matrix `[N, C]` in `dtype`, by default its own, or write it to `out`."""
        if out is None:
            out = torch.empty(self.shape, dtype=dtype or self.dtype, device=self.device)
        if self.scheme == INT8:
            # Where float16 is asked for, too, the product is one of float32 and rounded once.
            return torch.mul(self.qweight, self.scales[:, None], out=out)
        groups = self.scales.shape[1] // 2
        qweight = F.pad(self.qweight, (0, groups * GROUP_SIZE - self.row_bytes)).unflatten(
            1, (groups, GROUP_SIZE)
        )
        for half, scales in enumerate(self.scales.unflatten(1, (2, groups)).unbind(1)):
            columns = out[:, half * self.row_bytes : (half + 1) * self.row_bytes]
            numbers = (((qweight >> 4 * half) & 15).to(torch.int8) - 8) * scales[..., None].float()
            columns.copy_(numbers.flatten(1)[:, : columns.shape[1]])
        return out

    def quantize_rows(self, begin: int, weights: Tensor) -> None:
        """Quantize `weights` `[M, C]` and write them to the rows from `begin` on."""
        end = begin + len(weights)
        fit = _fit_int8 if self.scheme == INT8 else _fit_int4
        qweight, scales = fit(weights.to(self.device, torch.float32))
        self.qweight[begin:end] = qweight
        self.scales[begin:end] = scales

    @staticmethod
    def empty(
        shape: tuple[int, int], scheme: str, dtype: torch.dtype, device: torch.device
    ) -> QuantizedTensor:
        """Allocate an uninitialized matrix `[N, C]` of `shape`."""
        (rows, columns), row_bytes = shape, -(-shape[1] // 2)
        if scheme == INT8:
            qweight = torch.empty(rows, columns, dtype=torch.int8, device=device)
            scales = torch.empty(rows, dtype=torch.float32, device=device)
        else:
            qweight = torch.empty(rows, row_bytes, dtype=torch.uint8, device=device)
            scales = torch.empty(rows, 2 * -(-row_bytes // GROUP_SIZE), dtype=torch.float16, device=device)
        return QuantizedTensor(qweight, scales, columns, dtype)


Weight = Tensor | QuantizedTensor


def quantize(
    read: Callable[[int, int], Tensor],
    shape: tuple[int, int],
    scheme: str,
    dtype: torch.dtype,
    device: torch.device,
) -> QuantizedTensor:
    """Quantize a matrix whose rows `read(begin, end)` returns.

    The calling thread reads `CHUNK` weights, or one row, at a time. On a CPU with several torch threads,
    other threads quantize them.
    """
    quantized = QuantizedTensor.empty(shape, scheme, dtype, device)
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    chunks = list(row_ranges(shape, CHUNK))
    if min(workers, len(chunks)) == 1:
        for begin, end in chunks:
            quantized.quantize_rows(begin, read(begin, end))
        return quantized
    # A thread for each chunk: torch's own would wait for each other at each of some hundred small operations.
    with ThreadPoolExecutor(workers, "quantize", torch.set_num_threads, (1,)) as executor:
        running = deque[Future[None]]()
        for begin, end in chunks:
            running.append(executor.submit(quantized.quantize_rows, begin, read(begin, end).detach()))
            if len(running) > workers:
                running.popleft().result()
        for future in running:
            future.result()
    return quantized


def row_ranges(shape: tuple[int, int], size: int) -> Iterator[tuple[int, int]]:
    """Yield row ranges (begin, end) of a matrix, each with at most `size` weights but at least one row."""
    step = max(1, size // shape[1])
    for begin in range(0, shape[0], step):
        yield begin, min(begin + step, shape[0])


def _fit_int8(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 codes and scales of rows `[M, C]`."""
    qweight, scales = _fit_scales(weights, [weights.abs().amax(1) / 127], (-127, 127), torch.float32)
    return qweight.to(torch.int8), scales


def _fit_int4(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return packed int4 codes and scales of rows `[M, C]`."""
    (rows, columns), row_bytes = weights.shape, -(-weights.shape[1] // 2)
    groups = -(-row_bytes // GROUP_SIZE)
    halves = [weights[:, :row_bytes], F.pad(weights[:, row_bytes:], (0, 2 * row_bytes - columns))]
    grouped = torch.stack([F.pad(half, (0, groups * GROUP_SIZE - row_bytes)) for half in halves], 1)
    grouped = grouped.unflatten(2, (groups, GROUP_SIZE))
    place = grouped.abs().argmax(3, keepdim=True)
    peak = grouped.gather(3, place)[..., 0]
    qweight, scales = _fit_scales(grouped, [peak / code for code in _INT4_PEAKS], (-8, 7), torch.float16)
    low, high = (qweight + 8).to(torch.uint8).flatten(2)[..., :row_bytes].unbind(1)
    return low | (high << 4), scales.reshape(rows, 2 * groups)


def _fit_scales(
    weights: Tensor, candidates: Iterable[Tensor], bounds: tuple[int, int], kind: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return codes `[…, C]` within `bounds` and scales `[…]` in dtype `kind`, with the least squared error.

    Each candidate scale gives codes q, for which the scale s = Σ q·w / Σ q² has the least error. The
    candidate with the largest s · Σ q·w is chosen, since the squared error is Σ w² minus that.
    """
    rough, scales, gained = None, None, None
    for candidate in candidates:
        qweight = _round_to_grid(weights, candidate, bounds)
        products, squares = (qweight * weights).sum(-1), qweight.square().sum(-1)
        # What is not a number is in no code, so that a scale has to tell of it.
        fitted = torch.where(squares > 0, products / squares, candidate)
        gain = fitted * products
        if rough is None or scales is None or gained is None:
            rough, scales, gained = candidate, fitted, gain
        else:
            better = gain > gained
            pairs = ((candidate, rough), (fitted, scales), (gain, gained))
            rough, scales, gained = (torch.where(better, new, old) for new, old in pairs)
    assert rough is not None and scales is not None
    return _round_to_grid(weights, rough, bounds).nan_to_num_(0), scales.to(kind)


def _round_to_grid(weights: Tensor, scales: Tensor, bounds: tuple[int, int]) -> Tensor:
    """Return the nearest codes in float32; 0 where the scale is 0."""
    return (weights / torch.where(scales == 0, 1, scales)[..., None]).round_().clamp_(*bounds)
