"""Penalty, temperature, top-k, top-p, min-p and the draw on the device: the fast twin of `jet.ops.sampling`.

Four launches, without sorting and without the host:

1. The penalty, and the largest logit of every 256.
2. A limit that no kept token can lie below, and in every block the tokens within it and their mass. Mostly
   a few dozen to a few thousand of the whole vocabulary are left.
3. Their ids, close together. Left out where nothing but min-p filters: there the limit is the filter.
4. One program a row: the exact edges of top-k and top-p among those left, the draw, the bookkeeping.

A token is compared by its *key*: the bits of how far its logit, over the temperature, lies below the
largest. Keys are whole numbers from 0 (the likeliest) on, in exactly the order of the float32 values, so an
edge is found digit by digit. A *weight* is its probability relative to the likeliest, a whole number too, of
2⁻⁴⁴: so sums are exact, in any order, and what is drawn does not depend on how the work was cut. Tokens less
likely than that are never drawn.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator, unused-ignore"

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from jet.ops.rows import Plan, Rows

GROUP = tl.constexpr(256)  # logits that share a maximum
GROUPS = tl.constexpr(16)  # groups of a block
BLOCK = tl.constexpr(4096)
TILE = tl.constexpr(1024)  # tokens left that a program looks at together
DIGIT = tl.constexpr(3)  # bits of an edge found a round
WAYS = tl.constexpr(8)  # intervals, 2 to the DIGIT
TOP_SHIFT = tl.constexpr(28)  # of the first digit of 31 bits
ROUNDS = tl.constexpr(11)
ROUGH_ROUNDS = tl.constexpr(5)
ROUGH_WIDTH = tl.constexpr(1 << 16)  # of the interval that they leave
IMPOSSIBLE = tl.constexpr(0x7F800000)  # the key of -inf, and of no token at all: it weighs nothing
MAGNITUDE = tl.constexpr(0x7FFFFFFF)
LIKELIEST = tl.constexpr(2.0**44)  # its weight
NO_LIMIT = tl.constexpr(1 << 40)
TINY = tl.constexpr(1.1754943508222875e-38)

MAX_VOCABULARY = 2**18  # as many weights sum to 2**62
WARPS = 8


@dataclass(frozen=True)
class Scratch:
    """What the kernels of one step leave for each other; need not be initialised.

    Attributes:
        maxima: `[B, groups]` float32, the largest logit of every group, +inf where one is NaN.
        peak: `[B]` float32, the largest of the row.
        limit: `[B]` int32, a key; tokens beyond it are not kept.
        count: `[B, blocks]` int32, the tokens within the limit.
        mass: `[B, blocks]` int64, the weights of all tokens.
        near_mass: `[B, blocks]` int64, the weights of the tokens within the limit.
        ids: `[B, V]` int32, the tokens within the limit in order, for rows with top-k or top-p.
        edge: `[B]` int32, the key of the least likely token kept.
        ties: `[B]` int64, how many tokens with that very key are kept at most, the first ones.
    """

    maxima: Tensor
    peak: Tensor
    limit: Tensor
    count: Tensor
    mass: Tensor
    near_mass: Tensor
    ids: Tensor
    edge: Tensor
    ties: Tensor

    @classmethod
    def make(cls, batch: int, vocabulary: int, device: torch.device | str) -> Scratch:
        """For up to `batch` rows. Raises ValueError if the vocabulary is too large for exact sums."""
        if not 0 < vocabulary <= MAX_VOCABULARY:
            raise ValueError(f"A vocabulary has from 1 to {MAX_VOCABULARY} tokens here, not {vocabulary}.")
        blocks = triton.cdiv(vocabulary, BLOCK.value)

        def empty(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(batch, *shape, dtype=dtype, device=device)

        return cls(
            maxima=empty(blocks * GROUPS.value, dtype=torch.float32),
            peak=empty(dtype=torch.float32),
            limit=empty(dtype=torch.int32),
            count=empty(blocks, dtype=torch.int32),
            mass=empty(blocks, dtype=torch.int64),
            near_mass=empty(blocks, dtype=torch.int64),
            ids=empty(vocabulary, dtype=torch.int32),
            edge=empty(dtype=torch.int32),
            ties=empty(dtype=torch.int64),
        )


def greedy(
    logits: Tensor, rows: Rows, seen: Tensor, scratch: Scratch, *, penalise: bool, pdl: bool = False
) -> None:
    """The likeliest token of every active row, whatever its temperature.

    Args:
        logits: `[B, V]` float32, the last dimension contiguous; the penalty is written into it.
        rows: `[B]` each. Writes `token`, counts `step` up, and flags bad logits in `status`.
        seen: `[slots, V]` uint8, contiguous; 1 for every token of the story, the drawn one included.
        scratch: for at least B rows and the same V.
        penalise: whether any row has a repetition penalty.
        pdl: launch with programmatic dependent launch, on both sides.
    """
    launch = _Launch(logits, scratch, pdl)
    launch.penalise(logits, rows, seen, scratch, penalise)
    _greedy_kernel[(launch.batch,)](
        logits, logits.stride(0), launch.vocabulary, scratch.maxima, launch.blocks,
        rows.active, rows.token, rows.step, rows.position, rows.status, rows.slot, seen,
        rows.stops, rows.idle, STOPS=len(rows.stops),
        MAXIMA=launch.maxima, PDL=pdl, num_warps=4, **launch.options,
    )  # fmt: skip


def sample(
    logits: Tensor, rows: Rows, seen: Tensor, scratch: Scratch, plan: Plan, *, pdl: bool = False
) -> None:
    """The next token of every active row, fixed by its logits, parameters, seed and step and nothing else.

    Keeps what `jet.ops.sampling.candidates` keeps, and of equally likely tokens at the edge of top-p the
    first ones. The draw goes through the kept tokens in order, with `jet.ops.sampling.uniform`. Arguments as
    for `greedy`; filters that `plan` leaves out are off whatever the rows say.
    """
    launch = _Launch(logits, scratch, pdl)
    launch.penalise(logits, rows, seen, scratch, plan.uses_penalty)
    filters = {"TOP_K": plan.uses_top_k, "TOP_P": plan.uses_top_p}
    _count_kernel[launch.grid](
        logits, logits.stride(0), launch.vocabulary, rows.active,
        rows.temperature, rows.top_k, rows.top_p, rows.min_p,
        scratch.maxima, scratch.peak, scratch.limit, scratch.count, scratch.mass, scratch.near_mass,
        MAXIMA=launch.maxima, **filters, **launch.common,
    )  # fmt: skip
    if plan.uses_top_k or plan.uses_top_p:
        _gather_kernel[launch.grid](
            logits, logits.stride(0), launch.vocabulary, rows.active,
            rows.temperature, rows.top_k, rows.top_p,
            scratch.peak, scratch.limit, scratch.count, scratch.ids,
            BLOCKS=launch.padded_blocks, **filters, **launch.common,
        )  # fmt: skip
    _draw_kernel[(launch.batch,)](
        logits, logits.stride(0), launch.vocabulary, launch.blocks, rows.active,
        rows.temperature, rows.top_k, rows.top_p, rows.min_p, rows.seed, rows.step,
        scratch.maxima, scratch.peak, scratch.limit, scratch.count, scratch.mass, scratch.near_mass,
        scratch.ids, scratch.edge, scratch.ties, rows.token, rows.position, rows.status, rows.slot, seen,
        rows.stops, rows.idle, STOPS=len(rows.stops),
        MAXIMA=launch.maxima, BLOCKS=launch.padded_blocks, **filters, **launch.common,
    )  # fmt: skip


class _Launch:
    """The sizes of one call, checked."""

    def __init__(self, logits: Tensor, scratch: Scratch, pdl: bool) -> None:
        self.batch, self.vocabulary = logits.shape
        if logits.dtype != torch.float32 or logits.stride(1) != 1:
            raise ValueError("Logits must be float32, with each row contiguous.")
        if self.vocabulary != scratch.ids.shape[1] or self.batch > scratch.ids.shape[0]:
            raise ValueError(f"Scratch for {list(scratch.ids.shape)} does not fit {list(logits.shape)}.")
        self.blocks = scratch.count.shape[1]
        self.grid = (self.blocks, self.batch)
        self.padded_blocks = triton.next_power_of_2(self.blocks)
        self.maxima = triton.next_power_of_2(scratch.maxima.shape[1])
        self.options: dict[str, Any] = {"launch_pdl": True} if pdl else {}
        self.common = {"PDL": pdl, "num_warps": WARPS, **self.options}

    def penalise(self, logits: Tensor, rows: Rows, seen: Tensor, scratch: Scratch, penalise: bool) -> None:
        """The first kernel, which both entry points share."""
        _penalise_kernel[self.grid](
            logits, logits.stride(0), self.vocabulary, rows.active, rows.penalty, rows.slot, seen,
            scratch.maxima, PENALISE=penalise, **self.common,
        )  # fmt: skip


# --- kernels ---------------------------------------------------------------------------------------------


@triton.jit
def _penalise_kernel(
    logits_ptr, stride, vocabulary, active_ptr, penalty_ptr, slot_ptr, seen_ptr, maxima_ptr,
    PENALISE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (block, row): the penalty on a block of logits, and the maximum of each of its groups."""
    _take_turn(PDL)
    block, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if tl.load(active_ptr + row) != 0:
        group = tl.arange(0, GROUPS)
        token = block * BLOCK + group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
        inside = token < vocabulary
        logits = logits_ptr + row * stride + token
        x = tl.load(logits, mask=inside, other=float("-inf"))
        if PENALISE:
            penalty = tl.load(penalty_ptr + row)
            seen = seen_ptr + tl.load(slot_ptr + row).to(tl.int64) * vocabulary + token
            known = tl.load(seen, mask=token < tl.where(penalty != 1, vocabulary, 0), other=0) != 0
            product, quotient = x * penalty, tl.div_rn(x, penalty)
            less, more = tl.minimum(product, quotient), tl.maximum(product, quotient)
            x = tl.where(known, tl.where(penalty > 1, less, more), x)
            tl.store(logits, x, mask=known)
        # The maximum of numbers and NaN is a number on some devices; infinity is always seen.
        x = tl.where(x == x, x, float("inf"))
        first = (row * tl.num_programs(0) + block) * GROUPS
        tl.store(maxima_ptr + first + group, tl.max(x, axis=1))


@triton.jit
def _greedy_kernel(
    logits_ptr, stride, vocabulary, maxima_ptr, blocks,
    active_ptr, token_ptr, step_ptr, position_ptr, status_ptr, slot_ptr, seen_ptr,
    stops_ptr, idle, STOPS: tl.constexpr, MAXIMA: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (row): the first of the likeliest tokens."""
    _take_turn(PDL)
    row = tl.program_id(0).to(tl.int64)
    if tl.load(active_ptr + row) != 0:
        maxima = _load_maxima(maxima_ptr, row, blocks, MAXIMA)
        peak = tl.max(maxima, axis=0)
        token = _first_at(logits_ptr + row * stride, vocabulary, maxima, peak)
        _finish(
            row, token, peak, vocabulary, token_ptr, step_ptr, position_ptr, status_ptr, slot_ptr, seen_ptr,
            stops_ptr, idle, STOPS,
        )  # fmt: skip


@triton.jit
def _count_kernel(
    logits_ptr, stride, vocabulary, active_ptr, temperature_ptr, top_k_ptr, top_p_ptr, min_p_ptr,
    maxima_ptr, peak_ptr, limit_ptr, count_ptr, mass_ptr, near_mass_ptr,
    MAXIMA: tl.constexpr, TOP_K: tl.constexpr, TOP_P: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (block, row): the tokens of a block within the row's limit, how many and how heavy."""
    _take_turn(PDL)
    block, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if tl.load(active_ptr + row) != 0:
        maxima = _load_maxima(maxima_ptr, row, tl.num_programs(0), MAXIMA)
        peak = tl.max(maxima, axis=0)
        temperature = tl.load(temperature_ptr + row)
        if block == 0:
            tl.store(peak_ptr + row, peak)
        if _is_finite(peak) & (temperature > 0):
            top_k, top_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row)
            tops = _key(maxima, peak, temperature)
            limit = _limit(tops, tl.load(min_p_ptr + row), top_k, top_p, vocabulary, TOP_K, TOP_P)
            if block == 0:
                tl.store(limit_ptr + row, limit)
            token = block * BLOCK + tl.arange(0, BLOCK)
            inside = token < vocabulary
            x = tl.load(logits_ptr + row * stride + token, mask=inside, other=float("-inf"))
            key = _key(x, peak, temperature)
            weight = _weight(key)
            near = inside & (key <= limit)
            at = row * tl.num_programs(0) + block
            tl.store(count_ptr + at, tl.sum(near.to(tl.int32), axis=0))
            tl.store(mass_ptr + at, tl.sum(weight, axis=0))
            tl.store(near_mass_ptr + at, tl.sum(tl.where(near, weight, 0), axis=0))


@triton.jit
def _gather_kernel(
    logits_ptr, stride, vocabulary, active_ptr, temperature_ptr, top_k_ptr, top_p_ptr,
    peak_ptr, limit_ptr, count_ptr, ids_ptr,
    BLOCKS: tl.constexpr, TOP_K: tl.constexpr, TOP_P: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (block, row): writes the ids within the limit, after those of the blocks before."""
    _take_turn(PDL)
    block, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if tl.load(active_ptr + row) != 0:
        peak, temperature = tl.load(peak_ptr + row), tl.load(temperature_ptr + row)
        filtered = _filters_k(tl.load(top_k_ptr + row), vocabulary, TOP_K)
        filtered |= _filters_p(tl.load(top_p_ptr + row), TOP_P)
        if filtered & _is_finite(peak) & (temperature > 0):
            count = _load_blocks(count_ptr, row, tl.num_programs(0), BLOCKS)
            before = tl.sum(tl.where(tl.arange(0, BLOCKS) < block, count, 0), axis=0)
            token = block * BLOCK + tl.arange(0, BLOCK)
            inside = token < vocabulary
            x = tl.load(logits_ptr + row * stride + token, mask=inside, other=float("-inf"))
            near = inside & (_key(x, peak, temperature) <= tl.load(limit_ptr + row))
            place = before + tl.cumsum(near.to(tl.int32), axis=0) - 1
            tl.store(ids_ptr + row * vocabulary + place, token, mask=near)


@triton.jit
def _draw_kernel(
    logits_ptr, stride, vocabulary, blocks, active_ptr,
    temperature_ptr, top_k_ptr, top_p_ptr, min_p_ptr, seed_ptr, step_ptr,
    maxima_ptr, peak_ptr, limit_ptr, count_ptr, mass_ptr, near_mass_ptr,
    ids_ptr, edge_ptr, ties_ptr, token_ptr, position_ptr, status_ptr, slot_ptr, seen_ptr,
    stops_ptr, idle, STOPS: tl.constexpr,
    MAXIMA: tl.constexpr, BLOCKS: tl.constexpr, TOP_K: tl.constexpr, TOP_P: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (row): the edges of the filters, the draw among what they keep, and the bookkeeping."""
    _take_turn(PDL)
    row = tl.program_id(0).to(tl.int64)
    if tl.load(active_ptr + row) != 0:
        logits_ptr += row * stride
        peak, temperature = tl.load(peak_ptr + row), tl.load(temperature_ptr + row)
        token = tl.full((), 0, tl.int32)
        if temperature <= 0:
            maxima = _load_maxima(maxima_ptr, row, blocks, MAXIMA)
            token = _first_at(logits_ptr, vocabulary, maxima, peak)
        elif _is_finite(peak):
            chance = _random_bits(tl.load(seed_ptr + row), tl.load(step_ptr + row))
            top_k, top_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row)
            edge, ties = tl.load(limit_ptr + row), tl.full((), NO_LIMIT, tl.int64)
            if _filters_k(top_k, vocabulary, TOP_K) | _filters_p(top_p, TOP_P):
                left = tl.sum(_load_blocks(count_ptr, row, blocks, BLOCKS), axis=0)
                mass = tl.sum(_load_blocks(mass_ptr, row, blocks, BLOCKS), axis=0)
                min_p = tl.load(min_p_ptr + row)
                token, edge, ties = _draw_gathered(
                    ids_ptr + row * vocabulary, logits_ptr, left, peak, temperature, vocabulary,
                    mass, top_k, top_p, min_p, chance, TOP_K, TOP_P,
                )  # fmt: skip
            else:
                masses = _load_blocks(near_mass_ptr, row, blocks, BLOCKS)
                token = _draw_limited(logits_ptr, peak, temperature, vocabulary, masses, edge, ties, chance)
            tl.store(edge_ptr + row, edge)
            tl.store(ties_ptr + row, ties)
        _finish(
            row, token, peak, vocabulary, token_ptr, step_ptr, position_ptr, status_ptr, slot_ptr, seen_ptr,
            stops_ptr, idle, STOPS,
        )  # fmt: skip


# --- edges and the draw ----------------------------------------------------------------------------------


@triton.jit
def _draw_gathered(
    ids_ptr, logits_ptr, left, peak, temperature, vocabulary,
    mass, top_k, top_p, min_p, chance, TOP_K: tl.constexpr, TOP_P: tl.constexpr,
):  # fmt: skip
    """A token of the `left` gathered ones, and the edge; `mass` is that of the whole vocabulary."""
    edge, ties = _edges(
        ids_ptr, logits_ptr, left, peak, temperature, vocabulary, mass, top_k, top_p, min_p, TOP_K, TOP_P
    )
    kept = _kept_mass(ids_ptr, logits_ptr, left, peak, temperature, vocabulary, edge, ties)
    target = _share(chance, kept)
    token = _pick(ids_ptr, logits_ptr, 0, left, peak, temperature, vocabulary, edge, ties, target, True)
    return token, edge, ties


@triton.jit
def _draw_limited(logits_ptr, peak, temperature, vocabulary, masses, edge, ties, chance):
    """A token within the limit: first its block, whose kept weights are in `masses`."""
    target = _share(chance, tl.sum(masses, axis=0))
    block = tl.sum((tl.cumsum(masses, axis=0) <= target).to(tl.int32), axis=0)
    target -= tl.sum(tl.where(tl.arange(0, masses.shape[0]) < block, masses, 0), axis=0)
    begin, end = block * BLOCK, tl.minimum(block * BLOCK + BLOCK, vocabulary)
    return _pick(logits_ptr, logits_ptr, begin, end, peak, temperature, vocabulary, edge, ties, target, False)


@triton.jit
def _limit(tops, min_p, top_k, top_p, vocabulary, TOP_K: tl.constexpr, TOP_P: tl.constexpr):
    """A key that the filters keep nothing beyond; `tops` are the keys of the groups' likeliest tokens."""
    limit = _min_p_key(min_p)
    filters_p = _filters_p(top_p, TOP_P)
    if filters_p:
        # V tokens, each below (1 - top_p) / 2V of the likeliest, are together less than top-p leaves out.
        limit = tl.minimum(limit, _bits(tl.log(2.0 * vocabulary / (1 - top_p))))
    if _filters_k(top_k, vocabulary, TOP_K):
        # Of k groups each has a token as likely as the k-th likeliest of the groups' likeliest, or likelier.
        low, below = tl.full((), 0, tl.int32), tl.full((), 0, tl.int64)
        ones = tl.full(tops.shape, 1, tl.int64)
        for number in range(ROUGH_ROUNDS):
            shift = TOP_SHIFT - DIGIT * number
            low, below = _narrow(_sums(tops, ones, low, shift), low, below, shift, top_k.to(tl.int64))
        edge = tl.minimum(low + (ROUGH_WIDTH - 1), IMPOSSIBLE)
        edge = tl.where(tl.sum((tops < IMPOSSIBLE).to(tl.int32), axis=0) < top_k, IMPOSSIBLE, edge)
        # Top-p is a share of all that top-k keeps, so then nothing of that may be missing.
        limit = tl.where(filters_p, edge, tl.minimum(limit, edge))
    return limit


@triton.jit
def _edges(
    ids_ptr, logits_ptr, left, peak, temperature, vocabulary,
    mass, top_k, top_p, min_p, TOP_K: tl.constexpr, TOP_P: tl.constexpr,
):  # fmt: skip
    """The last key that all filters keep, and how many tokens with that very key they keep."""
    edge, ties = tl.full((), IMPOSSIBLE, tl.int32), tl.full((), NO_LIMIT, tl.int64)
    filters_k = _filters_k(top_k, vocabulary, TOP_K)
    if filters_k:
        # Fewer than k are left where min-p leaves fewer.
        number = tl.minimum(top_k, left).to(tl.int64)
        edge, _ = _search(ids_ptr, logits_ptr, left, peak, temperature, vocabulary, edge, number, False)
    if _filters_p(top_p, TOP_P):
        near = _kept_mass(ids_ptr, logits_ptr, left, peak, temperature, vocabulary, edge, ties)
        whole = tl.where(filters_k, near, mass)
        # A token is kept if the likelier ones have less than this; all are where min-p has left less.
        share = tl.ceil(top_p.to(tl.float64) * whole.to(tl.float64)).to(tl.int64)
        share = tl.maximum(tl.minimum(share, near), 1)
        edge, likelier = _search(ids_ptr, logits_ptr, left, peak, temperature, vocabulary, edge, share, True)
        ties = tl.cdiv(share - likelier, tl.maximum(_weight(edge), 1))
    floor = _min_p_key(min_p)
    ties = tl.where(floor < edge, NO_LIMIT, ties)
    return tl.minimum(edge, floor), ties


@triton.jit
def _search(
    ids_ptr, logits_ptr, left, peak, temperature, vocabulary, limit, target, WEIGHTS: tl.constexpr
):  # fmt: skip
    """The smallest key up to which tokens within `limit` weigh (or count) `target`, and the sum before it."""
    low, below = tl.full((), 0, tl.int32), tl.full((), 0, tl.int64)
    _, first = _tile(ids_ptr, logits_ptr, 0, left, peak, temperature, vocabulary, True)
    first_values = _values(first, limit, WEIGHTS)
    for number in range(ROUNDS):
        shift = tl.maximum(TOP_SHIFT - DIGIT * number, 0)
        sums = _sums(first, first_values, low, shift)
        for start in range(TILE, left, TILE):
            _, key = _tile(ids_ptr, logits_ptr, start, left, peak, temperature, vocabulary, True)
            sums += _sums(key, _values(key, limit, WEIGHTS), low, shift)
        low, below = _narrow(sums, low, below, shift, target)
    return low, below


@triton.jit
def _values(key, limit, WEIGHTS: tl.constexpr):
    return tl.where(key <= limit, _weight(key) if WEIGHTS else 1, 0).to(tl.int64)


@triton.jit
def _last_keys(low, shift):
    """The last key of each of the intervals, of 2^shift keys each, from `low` on."""
    return low + (tl.arange(0, WAYS) << shift) + ((1 << shift) - 1)


@triton.jit
def _sums(key, values, low, shift):
    """The values up to the end of each interval, `[WAYS]`."""
    return tl.sum(tl.where(key[:, None] <= _last_keys(low, shift)[None, :], values[:, None], 0), axis=0)


@triton.jit
def _narrow(sums, low, below, shift, target):
    """The first key of the interval in which the sum reaches `target`, and the sum before it."""
    short = sums < target
    below = tl.maximum(below, tl.max(tl.where(short, sums, 0), axis=0))
    return low + (tl.sum(short.to(tl.int32), axis=0) << shift), below


@triton.jit
def _kept_mass(ids_ptr, logits_ptr, left, peak, temperature, vocabulary, edge, ties):
    """The weight of all tokens before the edge and of the first `ties` on it."""
    total = tl.full((), 0, tl.int64)
    for start in range(0, left, TILE):
        _, key = _tile(ids_ptr, logits_ptr, start, left, peak, temperature, vocabulary, True)
        mass, tied = _tile_mass(key, edge, ties)
        total += mass
        ties -= tied
    return total


@triton.jit
def _tile_mass(key, edge, ties):
    """The kept weight of a tile of which `ties` tokens on the edge are kept, and how many it has of those."""
    tied = tl.minimum(tl.sum((key == edge).to(tl.int64), axis=0), ties)
    return tl.sum(tl.where(key < edge, _weight(key), 0), axis=0) + tied * _weight(edge), tied


@triton.jit
def _pick(
    ids_ptr, logits_ptr, begin, end, peak, temperature, vocabulary,
    edge, ties, target, GATHERED: tl.constexpr,
):  # fmt: skip
    """The first kept token, of places `begin` to `end`, up to which more than `target` is kept."""
    start = begin
    _, key = _tile(ids_ptr, logits_ptr, start, end, peak, temperature, vocabulary, GATHERED)
    mass, tied = _tile_mass(key, edge, ties)
    while (mass <= target) & (start + TILE < end):
        target -= mass
        ties -= tied
        start += TILE
        _, key = _tile(ids_ptr, logits_ptr, start, end, peak, temperature, vocabulary, GATHERED)
        mass, tied = _tile_mass(key, edge, ties)
    token, key = _tile(ids_ptr, logits_ptr, start, end, peak, temperature, vocabulary, GATHERED)
    on_edge = key == edge
    kept = (key < edge) | (on_edge & (tl.cumsum(on_edge.to(tl.int32), axis=0) <= ties))
    reached = tl.cumsum(tl.where(kept, _weight(key), 0), axis=0) > target
    return tl.min(tl.where(reached, token, vocabulary), axis=0)


@triton.jit
def _tile(ids_ptr, logits_ptr, start, end, peak, temperature, vocabulary, GATHERED: tl.constexpr):
    """Ids and keys of the next tokens from place `start`, before `end`, of the gathered ids or of all."""
    place = start + tl.arange(0, TILE)
    inside = place < end
    token = tl.load(ids_ptr + place, mask=inside, other=0) if GATHERED else place
    x = tl.load(logits_ptr + token, mask=inside, other=float("-inf"))
    return tl.where(inside, token, vocabulary), _key(x, peak, temperature)


# --- numbers ---------------------------------------------------------------------------------------------


@triton.jit
def _bits(distance):
    """What orders numbers from 0 on as the numbers themselves."""
    return distance.to(tl.int32, bitcast=True) & MAGNITUDE


@triton.jit
def _key(x, peak, temperature):
    return _bits(tl.div_rn(x - peak, tl.maximum(temperature, TINY)))


@triton.jit
def _weight(key):
    return (tl.exp(-key.to(tl.float32, bitcast=True)) * LIKELIEST).to(tl.int64)


@triton.jit
def _min_p_key(min_p):
    return tl.where(min_p > 0, _bits(tl.log(tl.maximum(min_p, TINY))), IMPOSSIBLE)


@triton.jit
def _random_bits(seed, step):
    """53 random bits, the upper ones of 64."""
    low, high = (step & 0xFFFFFFFF).to(tl.uint32), (step >> 32).to(tl.uint32)
    first, second, _, _ = tl.philox(seed, low, high, low * 0, low * 0)
    return (first.to(tl.uint64) << 32) | ((second >> 11) << 11).to(tl.uint64)


@triton.jit
def _share(bits, total):
    """A random whole number from 0 to below `total`."""
    return tl.umulhi(bits, total.to(tl.uint64)).to(tl.int64)


@triton.jit
def _is_finite(x):
    return tl.abs(x) < float("inf")


@triton.jit
def _filters_k(top_k, vocabulary, TOP_K: tl.constexpr):
    return (top_k > 0) & (top_k < vocabulary) & TOP_K


@triton.jit
def _filters_p(top_p, TOP_P: tl.constexpr):
    return (top_p < 1) & TOP_P


# --- memory ----------------------------------------------------------------------------------------------


@triton.jit
def _take_turn(PDL: tl.constexpr):
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


@triton.jit
def _load_blocks(ptr, row, blocks, BLOCKS: tl.constexpr):
    index = tl.arange(0, BLOCKS)
    return tl.load(ptr + row * blocks + index, mask=index < blocks, other=0)


@triton.jit
def _load_maxima(maxima_ptr, row, blocks, MAXIMA: tl.constexpr):
    index = tl.arange(0, MAXIMA)
    inside = index < blocks * GROUPS
    return tl.load(maxima_ptr + row * blocks * GROUPS + index, mask=inside, other=float("-inf"))


@triton.jit
def _first_at(logits_ptr, vocabulary, maxima, peak):
    """The first token whose logit is `peak`."""
    index = tl.arange(0, maxima.shape[0])
    group = tl.min(tl.where(maxima == peak, index, maxima.shape[0] - 1), axis=0)
    token = group * GROUP + tl.arange(0, GROUP)
    x = tl.load(logits_ptr + token, mask=token < vocabulary, other=float("-inf"))
    return tl.min(tl.where(x == peak, token, vocabulary), axis=0)


@triton.jit
def _finish(
    row, token, peak, vocabulary, token_ptr, step_ptr, position_ptr, status_ptr, slot_ptr, seen_ptr,
    stops_ptr, idle, STOPS: tl.constexpr,
):  # fmt: skip
    """Writes the token down, or that there is none."""
    if _is_finite(peak) & (token < vocabulary):
        slot = tl.load(slot_ptr + row)
        tl.store(token_ptr + row, token.to(token_ptr.dtype.element_ty))
        tl.store(step_ptr + row, tl.load(step_ptr + row) + 1)
        tl.store(position_ptr + row, tl.load(position_ptr + row) + 1)
        tl.store(seen_ptr + slot.to(tl.int64) * vocabulary + token, 1)
        for number in tl.static_range(STOPS):
            if tl.load(stops_ptr + number) == token:
                tl.store(slot_ptr + row, idle)
    else:
        tl.store(status_ptr + row, 1)
