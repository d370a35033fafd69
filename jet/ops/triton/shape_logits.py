"""Top-nσ, dynamic temperature and typical sampling on the device, between the penalties and the filters.

Computes the samplers of `jet.ops.sampler_chain` in their default order. One program for each row reads the
logits some twenty times from the L2 cache; it is launched only if a row of the batch uses these samplers. Its
output goes to another buffer, so that log-probabilities are those of the original logits.

Typical sampling sums probabilities as integers, as in `fused_sampling`, so that sums are exact in any order;
moments are sums of float64.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator, unused-ignore"

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
import triton
import triton.language as tl
from torch import Tensor

from jet.ops.decode_batch import DecodeBatch
from jet.ops.triton.common import launch_dependents, launch_options, prefetch_and_wait

TILE = 1024  # tokens that a program looks at together
WARPS = 8
WEIGHT_ONE = tl.constexpr(2.0**44)
DIGIT = tl.constexpr(3)
RADIX = tl.constexpr(8)
TOP_BIT = tl.constexpr(30)
MAGNITUDE = tl.constexpr(0x7FFFFFFF)
TINY = tl.constexpr(1.1754943508222875e-38)


@dataclass(frozen=True)
class ShapeBuffers:
    """The samplers' settings of each row, and the kernel's outputs; all are `[B]` float32 except `logits`.

    Attributes:
        top_n_sigma: 0 keeps all.
        typical_p: 1 keeps all.
        dynatemp_range: 0 leaves the temperature fixed.
        dynatemp_exponent: exponent of the normalized entropy.
        temperature: output, the temperature for the following kernels: 1 for rows whose `logits` are divided
            by the temperature already, otherwise the row's own.
        logits: output, the changed logits `[B, V]` float32.
    """

    top_n_sigma: Tensor
    typical_p: Tensor
    dynatemp_range: Tensor
    dynatemp_exponent: Tensor
    temperature: Tensor
    logits: Tensor

    @classmethod
    def make(cls, batch: int, vocabulary: int, device: torch.device | str) -> ShapeBuffers:
        """Allocate buffers for up to `batch` rows, with all samplers off."""

        def full(value: float) -> Tensor:
            return torch.full((batch,), value, dtype=torch.float32, device=device)

        logits = torch.zeros(batch, vocabulary, dtype=torch.float32, device=device)
        return cls(full(0), full(1), full(0), full(1), full(1), logits)

    def first(self, count: int) -> ShapeBuffers:
        """Return a view of the first `count` rows."""
        return ShapeBuffers(*(getattr(self, field.name)[:count] for field in fields(self)))

    def write(self, settings: Iterable[tuple[float, float, float, float]]) -> None:
        """Set the settings of the first rows, each (top-nσ, typical p, range, exponent).

        Turn the samplers of all other rows off.
        """
        rows = list(settings)
        missing = len(self.temperature) - len(rows)
        values = torch.tensor([*rows, *[(0.0, 1.0, 0.0, 1.0)] * missing], dtype=torch.float32)
        tensors = self.top_n_sigma, self.typical_p, self.dynatemp_range, self.dynatemp_exponent
        for tensor, column in zip(tensors, values.unbind(1), strict=True):
            tensor.copy_(column)


def shape_logits(logits: Tensor, rows: DecodeBatch, buffers: ShapeBuffers, *, pdl: bool = False) -> None:
    """Write `buffers.logits` and `buffers.temperature` for every active row of `logits` `[B, V]`, float32.

    Raises ValueError if the buffers have too few rows or another vocabulary.
    """
    batch, vocabulary = logits.shape
    if buffers.logits.shape[1] != vocabulary or len(buffers.logits) < batch:
        raise ValueError(f"Buffers for {list(buffers.logits.shape)} do not fit {list(logits.shape)}.")
    _shape_kernel[(batch,)](
        logits, logits.stride(0), buffers.logits, buffers.logits.stride(0), vocabulary, rows.active,
        rows.temperature, buffers.top_n_sigma, buffers.typical_p, buffers.dynatemp_range,
        buffers.dynatemp_exponent, buffers.temperature, TILE=TILE, **launch_options(WARPS, pdl),
    )  # fmt: skip


@triton.jit
def _shape_kernel(
    logits_ptr, stride, shaped_ptr, shaped_stride, vocabulary, active_ptr, temperature_ptr,
    sigmas_ptr, typical_ptr, range_ptr, exponent_ptr, written_temperature_ptr, TILE: tl.constexpr,
    prefetch, prefetch_bytes, PDL: tl.constexpr,
):  # fmt: skip
    """Write a row's logits relative to the peak and divided by the temperature; -inf for removed tokens.

    One program for each row; rows that do not use these samplers are copied.
    """
    launch_dependents(PDL)
    row = tl.program_id(0).to(tl.int64)
    active, temperature = tl.load(active_ptr + row) != 0, tl.load(temperature_ptr + row)
    sigmas, mass = tl.load(sigmas_ptr + row), tl.load(typical_ptr + row)
    spread, exponent = tl.load(range_ptr + row), tl.load(exponent_ptr + row)
    prefetch_and_wait(0, 1, prefetch, prefetch_bytes, PDL)
    if active:
        x_ptr, y_ptr = logits_ptr + row * stride, shaped_ptr + row * shaped_stride
        peak = tl.full((), float("-inf"), tl.float32)
        for start in range(0, vocabulary, TILE):
            x = _load(x_ptr, start, vocabulary, TILE)
            # The maximum of numbers and NaN is a number on some devices; infinity is always seen.
            peak = tl.maximum(peak, tl.max(tl.where(x == x, x, float("inf")), axis=0))
        shapes = (sigmas > 0) | (mass < 1) | (spread > 0)
        if shapes & (temperature > 0) & (tl.abs(peak) < float("inf")):
            floor = tl.full((), float("-inf"), tl.float64)
            if sigmas > 0:
                floor = _sigma_floor(x_ptr, vocabulary, peak, sigmas, TILE)
            heat = temperature
            if spread > 0:
                count, _, entropy = _moments(x_ptr, vocabulary, peak, temperature * 0 + 1, floor, TILE)
                low = tl.maximum(temperature - spread, 0.0)
                share = tl.maximum(entropy, 0.0) / tl.log(tl.maximum(count, 2).to(tl.float64))
                power = tl.exp(tl.log(tl.maximum(share, 1e-300)) * exponent.to(tl.float64))
                heat = (low + (temperature + spread - low) * power).to(tl.float32)
            heat = tl.maximum(heat, TINY)
            limit, log_mass, entropy = (
                tl.full((), 0x7F800000, tl.int32),
                tl.full((), 0.0, tl.float64),
                tl.full((), 0.0, tl.float64),
            )
            if mass < 1:
                _, log_mass, entropy = _moments(x_ptr, vocabulary, peak, heat, floor, TILE)
                limit = _typical_limit(x_ptr, vocabulary, peak, heat, floor, log_mass, entropy, mass, TILE)
            for start in range(0, vocabulary, TILE):
                x = _load(x_ptr, start, vocabulary, TILE)
                y = tl.div_rn(x - peak, heat)
                kept = x.to(tl.float64) - peak >= floor
                if mass < 1:
                    kept &= _distance(y, log_mass, entropy) <= limit
                place = start + tl.arange(0, TILE)
                tl.store(y_ptr + place, tl.where(kept, y, float("-inf")), mask=place < vocabulary)
            tl.store(written_temperature_ptr + row, 1.0)
        else:
            for start in range(0, vocabulary, TILE):
                place = start + tl.arange(0, TILE)
                x = _load(x_ptr, start, vocabulary, TILE)
                tl.store(y_ptr + place, x, mask=place < vocabulary)
            tl.store(written_temperature_ptr + row, temperature)


@triton.jit
def _load(x_ptr, start, vocabulary, TILE: tl.constexpr):
    place = start + tl.arange(0, TILE)
    return tl.load(x_ptr + place, mask=place < vocabulary, other=float("-inf"))


@triton.jit
def _sigma_floor(x_ptr, vocabulary, peak, sigmas, TILE: tl.constexpr):
    """Return the lowest logit that top-nσ keeps, relative to the peak, as a negative float64."""
    count, total = tl.full((), 0, tl.int32), tl.full((), 0.0, tl.float64)
    for start in range(0, vocabulary, TILE):
        below = _load(x_ptr, start, vocabulary, TILE).to(tl.float64) - peak
        count += tl.sum((below > float("-inf")).to(tl.int32), axis=0)
        total += tl.sum(tl.where(below > float("-inf"), below, 0.0), axis=0)
    mean, squares = total / count, tl.full((), 0.0, tl.float64)
    for start in range(0, vocabulary, TILE):
        below = _load(x_ptr, start, vocabulary, TILE).to(tl.float64) - peak
        away = tl.where(below > float("-inf"), below - mean, 0.0)
        squares += tl.sum(away * away, axis=0)
    return -sigmas * tl.sqrt(squares / count)


@triton.jit
def _moments(x_ptr, vocabulary, peak, heat, floor, TILE: tl.constexpr):
    """Return the number of kept tokens, the log of their weight (the peak's is 1) and the entropy in nats."""
    count, mass = tl.full((), 0, tl.int32), tl.full((), 0.0, tl.float64)
    moment = tl.full((), 0.0, tl.float64)
    for start in range(0, vocabulary, TILE):
        x = _load(x_ptr, start, vocabulary, TILE)
        kept = (x.to(tl.float64) - peak >= floor) & (x > float("-inf"))
        y = tl.div_rn(x - peak, heat).to(tl.float64)
        weight = tl.where(kept, tl.exp(y), 0.0)
        count += tl.sum(kept.to(tl.int32), axis=0)
        mass += tl.sum(weight, axis=0)
        moment += tl.sum(tl.where(weight > 0, weight * y, 0.0), axis=0)
    log_mass = tl.log(mass)
    return count, log_mass, log_mass - moment / mass


@triton.jit
def _distance(y, log_mass, entropy):
    """Return the distance of a token's surprise, -log p, from the entropy, as the bits of a float32.

    Read as integers, these bits have the order of the distances.
    """
    distance = tl.abs(log_mass - y.to(tl.float64) - entropy).to(tl.float32)
    return distance.to(tl.int32, bitcast=True) & MAGNITUDE


@triton.jit
def _typical_limit(
    x_ptr, vocabulary, peak, heat, floor, log_mass, entropy, share, TILE: tl.constexpr,
):  # fmt: skip
    """Return the smallest `_distance` within which tokens have the fraction `share` of the weight."""
    total = tl.full((), 0, tl.int64)
    for start in range(0, vocabulary, TILE):
        x = _load(x_ptr, start, vocabulary, TILE)
        total += tl.sum(_weight(x, peak, heat, floor), axis=0)
    target = tl.ceil(share.to(tl.float64) * total.to(tl.float64)).to(tl.int64)
    target = tl.maximum(tl.minimum(target, total), 1)
    low, below = tl.full((), 0, tl.int32), tl.full((), 0, tl.int64)
    for number in range(TOP_BIT // DIGIT + 1):
        shift = tl.maximum(TOP_BIT + 1 - DIGIT * (number + 1), 0)
        last = low + (tl.arange(0, RADIX) << shift) + ((1 << shift) - 1)
        sums = tl.zeros([RADIX], tl.int64)
        for start in range(0, vocabulary, TILE):
            x = _load(x_ptr, start, vocabulary, TILE)
            weight = _weight(x, peak, heat, floor)
            key = _distance(tl.div_rn(x - peak, heat), log_mass, entropy)
            sums += tl.sum(tl.where(key[:, None] <= last[None, :], weight[:, None], 0), axis=0)
        short = sums < target
        below = tl.maximum(below, tl.max(tl.where(short, sums, 0), axis=0))
        low += tl.sum(short.to(tl.int32), axis=0) << shift
    return low


@triton.jit
def _weight(x, peak, heat, floor):
    kept = x.to(tl.float64) - peak >= floor
    return tl.where(kept, tl.exp(tl.div_rn(x - peak, heat)) * WEIGHT_ONE, 0.0).to(tl.int64)
