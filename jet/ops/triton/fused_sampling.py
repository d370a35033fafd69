"""Penalty, temperature, top-k, top-p, min-p and the draw on the device: kernels for `jet.ops.sampling`.

Five launches, without sorting and without the host:

1. Apply the penalty, and find the largest logit of every group of 256.
2. Sum the weights of every block of tokens; with top-k or top-p, also make a histogram of the tokens that
   min-p keeps.
3. Find the bracket in the histogram: the few bins that contain the edges of top-k and top-p. Tokens before
   the bracket are kept in any case, tokens after it are not. For every block, sum the weights of its tokens
   before the bracket, and count its tokens inside (a few percent of the vocabulary, unless many logits are
   nearly equal).
4. Gather the ids of the tokens in the bracket. Without top-k and top-p, 3 and 4 are left out.
5. With one program for each row: find the exact edges in the bracket, draw, and update the row. Rows with
   samplers behind the filters are drawn by one more kernel instead, in `final_samplers`.

A token's *key* is the bit pattern of the distance between its logit and the largest one, divided by the
temperature. Keys are integers from 0 (the likeliest) on, in exactly the order of the float32 values, so an
edge is found digit by digit. A token's *weight* is its probability relative to the likeliest token's, as an
integer multiple of 2⁻⁴⁴. So sums are exact in any order, and the drawn token does not depend on how the work
is divided. Tokens with a weight below 1 are never drawn.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator, unused-ignore"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from jet.ops.decode_batch import DecodeBatch, FinalSettings, SamplerFlags
from jet.ops.triton.common import launch_dependents, launch_options, prefetch_and_wait
from jet.ops.triton.shape_logits import ShapeBuffers, shape_logits

GROUP = tl.constexpr(256)  # logits that share a maximum
GROUPS = tl.constexpr(4)  # groups of a block
BLOCK = tl.constexpr(1024)
TILE = tl.constexpr(1024)  # tokens of the bracket that a program looks at together
DIGIT = tl.constexpr(3)  # bits of an edge found a round
RADIX = tl.constexpr(8)  # intervals, 2 to the DIGIT
TOP_BIT = tl.constexpr(30)  # of a key
BINS = tl.constexpr(1024)
BIN_TILE = tl.constexpr(64)  # bins that a program empties together
BIN_SHIFT = tl.constexpr(17)  # leaves 6 bits of the fraction: 64 bins for every power of two
FIRST_BIN = tl.constexpr((132 << 6) - 1024)  # the last bin ends at 32, where weights have long become 0
KEY_INF = tl.constexpr(0x7F800000)  # the key of -inf, and of no token at all: it weighs nothing
MAGNITUDE = tl.constexpr(0x7FFFFFFF)
WEIGHT_ONE = tl.constexpr(2.0**44)  # its weight
NO_LIMIT = tl.constexpr(1 << 40)
TINY = tl.constexpr(1.1754943508222875e-38)
FINAL_SETTINGS = tl.constexpr(len(FinalSettings._fields))

MAX_VOCABULARY = 2**18  # as many weights sum to 2**62
WARPS = 4
DRAW_WARPS = 8  # of the only program of a row


@dataclass(frozen=True)
class SamplerScratch:
    """Buffers between the sampling kernels; need not be initialized.

    Attributes:
        maxima: `[B, groups]` float32, the largest logit of every group, +inf for groups with a NaN.
        peak: `[B]` float32, the largest logit of the row.
        mass: `[B, blocks]` int64, the sum of the weights of each block's tokens.
        binned_count: `[B, BINS]` int32, the number of counted tokens (see `_counted`) in each bin.
        binned_mass: `[B, BINS]` int64, the sum of the weights of these tokens.
        low: `[B]` int32, the first key of the bracket.
        limit: `[B]` int32, the last key of the bracket.
        top_p_mass: `[B]` int64, the weight of the tokens up to the edge of top-p, for rows without top-k.
        certain_mass: `[B, blocks]` int64, the weight of each block's tokens before the bracket.
        count: `[B, blocks]` int32, the number of each block's tokens in the bracket.
        ids: `[B, V]` int32, the ids of the tokens in the bracket, in order.
        edge: `[B]` int32, the key of the least likely token kept.
        ties: `[B]` int64, how many tokens with the key `edge` are kept at most, those with the lowest ids.
    """

    maxima: Tensor
    peak: Tensor
    mass: Tensor
    binned_count: Tensor
    binned_mass: Tensor
    low: Tensor
    limit: Tensor
    top_p_mass: Tensor
    certain_mass: Tensor
    count: Tensor
    ids: Tensor
    edge: Tensor
    ties: Tensor

    @classmethod
    def make(cls, batch: int, vocabulary: int, device: torch.device | str) -> SamplerScratch:
        """Allocate buffers for up to `batch` rows.

        Raises ValueError if the vocabulary is too large for exact sums.
        """
        if not 0 < vocabulary <= MAX_VOCABULARY:
            raise ValueError(f"A vocabulary has from 1 to {MAX_VOCABULARY} tokens here, not {vocabulary}.")
        blocks = triton.cdiv(vocabulary, BLOCK.value)

        def empty(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(batch, *shape, dtype=dtype, device=device)

        return cls(
            maxima=empty(blocks * GROUPS.value, dtype=torch.float32),
            peak=empty(dtype=torch.float32),
            mass=empty(blocks, dtype=torch.int64),
            binned_count=empty(BINS.value, dtype=torch.int32),
            binned_mass=empty(BINS.value, dtype=torch.int64),
            low=empty(dtype=torch.int32),
            limit=empty(dtype=torch.int32),
            top_p_mass=empty(dtype=torch.int64),
            certain_mass=empty(blocks, dtype=torch.int64),
            count=empty(blocks, dtype=torch.int32),
            ids=empty(vocabulary, dtype=torch.int32),
            edge=empty(dtype=torch.int32),
            ties=empty(dtype=torch.int64),
        )


def greedy(
    logits: Tensor,
    rows: DecodeBatch,
    token_mask: Tensor,
    scratch: SamplerScratch,
    *,
    penalize: bool,
    pdl: bool = False,
    prefetch: Tensor | None = None,
) -> None:
    """Choose the likeliest token of every active row, whatever its temperature.

    Args:
        logits: `[B, V]` float32, the last dimension contiguous; the penalty is written into it.
        rows: the rows' parameters and states. Writes `token`, increments `step` and `position`, sets `slot`
            to `null_slot` after a stop token, and sets `status` if the logits are not finite.
        token_mask: `[slots, V]` uint8, contiguous; 1 for every token of the text. The drawn token is added.
        scratch: buffers for at least B rows and the same V.
        penalize: whether any row has a repetition penalty.
        pdl: use programmatic dependent launch, on both sides. Rows are then read before the previous kernels
            have ended, so none of these may write them, as in a graph of one step.
        prefetch: the weight that the next step reads first, see `jet.ops.triton.common`.
    """
    launch = _Launch(logits, scratch, pdl)
    launch.penalize(
        logits, rows, token_mask, scratch, penalize, uses_min_tokens=False, bins=False, prefetch=prefetch
    )
    _greedy_kernel[(launch.batch,)](
        logits, logits.stride(0), launch.vocabulary, scratch.maxima, launch.blocks,
        rows.active, rows.token, rows.step, rows.position, rows.status, rows.slot, token_mask,
        rows.stop_ids, rows.null_slot, NUM_STOP_IDS=len(rows.stop_ids),
        MAXIMA=launch.maxima, **launch.launch_args,
    )  # fmt: skip


def sample(
    logits: Tensor,
    rows: DecodeBatch,
    token_mask: Tensor,
    scratch: SamplerScratch,
    flags: SamplerFlags,
    *,
    pdl: bool = False,
    prefetch: Tensor | None = None,
    shape: ShapeBuffers | None = None,
) -> None:
    """Sample the next token of every active row, by its logits, parameters, seed and step only.

    Keeps the tokens that `jet.ops.sampling.candidates` keeps; of equally likely tokens at the edge of top-p,
    those with the lowest ids. `jet.ops.sampling.uniform` gives the random number. It is compared with the
    cumulative weights of the kept tokens: first those before the bracket, then those in it, both in the order
    of their ids.

    Arguments are those of `greedy`. If `flags.uses_min_tokens`, -inf is written into `logits` for forbidden
    stop tokens. Filters that `flags` does not have are off, whatever the rows' parameters. `shape` must be
    given if `flags.uses_shape`. If `flags.uses_final`, rows that use final samplers are left to
    `jet.ops.triton.final_samplers.draw_final`, which must follow.
    """
    launch = _Launch(logits, scratch, pdl)
    filters = {"TOP_K": flags.uses_top_k, "TOP_P": flags.uses_top_p}
    searches = flags.uses_top_k or flags.uses_top_p
    launch.penalize(
        logits,
        rows,
        token_mask,
        scratch,
        flags.uses_penalty,
        flags.uses_min_tokens,
        bins=searches,
        prefetch=prefetch,
    )
    temperature = rows.temperature
    if flags.uses_shape:
        assert shape is not None
        shape_logits(logits, rows, shape, pdl=pdl)
        logits, temperature = shape.logits, shape.temperature
        # Not launched early: the kernels behind it read `shape.temperature` before they wait for it.
        launch.penalize(
            logits,
            rows,
            token_mask,
            scratch,
            False,
            uses_min_tokens=False,
            bins=searches,
            prefetch=None,
            pdl=False,
        )
    given = (logits, logits.stride(0), launch.vocabulary, rows.active, temperature)
    _weigh_kernel[launch.grid](
        *given, rows.min_p, rows.top_k, rows.top_p, scratch.maxima, scratch.peak, scratch.mass,
        scratch.binned_count, scratch.binned_mass, scratch.certain_mass, scratch.low, scratch.limit,
        MAXIMA=launch.maxima, **filters, **launch.launch_args,
    )  # fmt: skip
    if searches:
        _bracket_kernel[launch.grid](
            *given, rows.min_p, rows.top_k, rows.top_p, scratch.peak, scratch.mass,
            scratch.binned_count, scratch.binned_mass, scratch.low, scratch.limit, scratch.top_p_mass,
            scratch.certain_mass, scratch.count,
            BLOCKS=launch.padded_blocks, **filters, **launch.launch_args,
        )  # fmt: skip
        _gather_kernel[launch.grid](
            *given, scratch.peak, scratch.low, scratch.limit, scratch.count, scratch.ids,
            BLOCKS=launch.padded_blocks, **launch.launch_args,
        )  # fmt: skip
    _draw_kernel[(launch.batch,)](
        *given, launch.blocks, rows.min_p, rows.top_k, rows.top_p, rows.seed, rows.step,
        scratch.maxima, scratch.peak, scratch.low, scratch.limit, scratch.top_p_mass, scratch.certain_mass,
        scratch.binned_count, scratch.count, scratch.ids, scratch.edge, scratch.ties,
        rows.token, rows.position, rows.status, rows.slot, token_mask,
        rows.stop_ids, rows.null_slot, rows.final_settings if flags.uses_final else None,
        NUM_STOP_IDS=len(rows.stop_ids), FINAL=flags.uses_final,
        MAXIMA=launch.maxima, BLOCKS=launch.padded_blocks, **filters,
        **launch_options(DRAW_WARPS, pdl),
    )  # fmt: skip


class _Launch:
    """The sizes of one call. Raises ValueError if logits and scratch do not fit each other."""

    def __init__(self, logits: Tensor, scratch: SamplerScratch, pdl: bool) -> None:
        self.batch, self.vocabulary = logits.shape
        if logits.dtype != torch.float32 or logits.stride(1) != 1:
            raise ValueError("Logits must be float32, with each row contiguous.")
        if self.vocabulary != scratch.ids.shape[1] or self.batch > scratch.ids.shape[0]:
            raise ValueError(f"Scratch for {list(scratch.ids.shape)} does not fit {list(logits.shape)}.")
        self.blocks = scratch.count.shape[1]
        self.grid = (self.blocks, self.batch)
        self.padded_blocks = triton.next_power_of_2(self.blocks)
        self.maxima = triton.next_power_of_2(scratch.maxima.shape[1])
        self.pdl = pdl
        self.launch_args = launch_options(WARPS, pdl)

    def penalize(
        self,
        logits: Tensor,
        rows: DecodeBatch,
        token_mask: Tensor,
        scratch: SamplerScratch,
        penalize: bool,
        uses_min_tokens: bool,
        bins: bool,
        prefetch: Tensor | None,
        pdl: bool | None = None,
    ) -> None:
        """Launch the first kernel, which `greedy` and `sample` share.

        `bins`: whether to clear the histogram. `pdl`: by default that of the call.
        """
        _penalize_kernel[self.grid](
            logits, logits.stride(0), self.vocabulary, rows.active, rows.repetition_penalty, rows.slot,
            token_mask,
            scratch.maxima, scratch.binned_count, scratch.binned_mass,
            rows.step, rows.min_tokens, rows.stop_ids, NUM_STOP_IDS=len(rows.stop_ids),
            PENALIZE=penalize, MIN_TOKENS=uses_min_tokens, CLEAR_BINS=bins,
            **launch_options(WARPS, self.pdl if pdl is None else pdl, prefetch),
        )  # fmt: skip


# --- kernels ---------------------------------------------------------------------------------------------


@triton.jit
def _penalize_kernel(
    logits_ptr, stride, vocabulary, active_ptr, penalty_ptr, slot_ptr, token_mask_ptr, maxima_ptr,
    binned_count_ptr, binned_mass_ptr, step_ptr, min_tokens_ptr, stop_ids_ptr, NUM_STOP_IDS: tl.constexpr,
    PENALIZE: tl.constexpr, MIN_TOKENS: tl.constexpr, CLEAR_BINS: tl.constexpr,
    prefetch, prefetch_bytes, PDL: tl.constexpr,
):  # fmt: skip
    """Apply penalties and forbidden tokens to a block of logits, and find the maximum of each group.

    One program for each block and row; the grid is (blocks, rows).
    """
    launch_dependents(PDL)
    block, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    active = tl.load(active_ptr + row) != 0
    group = tl.arange(0, GROUPS)
    token = block * BLOCK + group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    inside = token < vocabulary
    if PENALIZE:
        penalty = tl.load(penalty_ptr + row)
        token_mask = token_mask_ptr + tl.load(slot_ptr + row).to(tl.int64) * vocabulary + token
        penalized = (
            tl.load(token_mask, mask=token < tl.where(active & (penalty != 1), vocabulary, 0), other=0) != 0
        )
    if MIN_TOKENS:
        load_before_wait = tl.load(step_ptr + row) < tl.load(min_tokens_ptr + row)
        ends = token < 0
        for number in tl.static_range(NUM_STOP_IDS):
            ends |= token == tl.load(stop_ids_ptr + number)
        banned = (ends & inside & load_before_wait) != 0
    blocks = tl.num_programs(0)
    prefetch_and_wait(
        tl.program_id(1) * blocks + block, tl.num_programs(1) * blocks, prefetch, prefetch_bytes, PDL
    )
    if active:
        logits = logits_ptr + row * stride + token
        x = tl.load(logits, mask=inside, other=float("-inf"))
        if PENALIZE:
            product, quotient = x * penalty, tl.div_rn(x, penalty)
            less, more = tl.minimum(product, quotient), tl.maximum(product, quotient)
            x = tl.where(penalized, tl.where(penalty > 1, less, more), x)
            tl.store(logits, x, mask=penalized)
        if MIN_TOKENS:
            x = tl.where(banned, float("-inf"), x)
            tl.store(logits, x, mask=banned)
        # The maximum of numbers and NaN is a number on some devices; infinity is always seen.
        x = tl.where(x == x, x, float("inf"))
        first = (row * blocks + block) * GROUPS
        tl.store(maxima_ptr + first + group, tl.max(x, axis=1))
        if CLEAR_BINS:
            for first_bin in range(block * BIN_TILE, BINS, blocks * BIN_TILE):
                bins = row * BINS + first_bin + tl.arange(0, BIN_TILE)
                tl.store(binned_count_ptr + bins, tl.zeros([BIN_TILE], tl.int32))
                tl.store(binned_mass_ptr + bins, tl.zeros([BIN_TILE], tl.int64))


@triton.jit(do_not_specialize=["null_slot"])  # which follows from the memory there is
def _greedy_kernel(
    logits_ptr, stride, vocabulary, maxima_ptr, blocks,
    active_ptr, token_ptr, step_ptr, position_ptr, status_ptr, slot_ptr, token_mask_ptr,
    stop_ids_ptr, null_slot, NUM_STOP_IDS: tl.constexpr, MAXIMA: tl.constexpr,
    prefetch, prefetch_bytes, PDL: tl.constexpr,
):  # fmt: skip
    """Take the likeliest token, of equal ones that with the lowest id. One program for each row."""
    launch_dependents(PDL)
    prefetch_and_wait(0, 1, prefetch, prefetch_bytes, PDL)
    row = tl.program_id(0).to(tl.int64)
    if tl.load(active_ptr + row) != 0:
        maxima = _load_maxima(maxima_ptr, row, blocks, MAXIMA)
        peak = tl.max(maxima, axis=0)
        token = _first_at(logits_ptr + row * stride, vocabulary, maxima, peak)
        _finish(
            row, token, peak, vocabulary, token_ptr, step_ptr, position_ptr, status_ptr, slot_ptr,
            token_mask_ptr,
            stop_ids_ptr, null_slot, NUM_STOP_IDS,
        )  # fmt: skip


@triton.jit
def _weigh_kernel(
    logits_ptr, stride, vocabulary, active_ptr, temperature_ptr, min_p_ptr, top_k_ptr, top_p_ptr,
    maxima_ptr, peak_ptr, mass_ptr, binned_count_ptr, binned_mass_ptr, certain_mass_ptr, low_ptr, limit_ptr,
    MAXIMA: tl.constexpr, TOP_K: tl.constexpr, TOP_P: tl.constexpr,
    prefetch, prefetch_bytes, PDL: tl.constexpr,
):  # fmt: skip
    """Sum the weights of a block of tokens, and add its tokens to the row's histogram.

    One program for each block and row; the grid is (blocks, rows).
    """
    launch_dependents(PDL)
    block, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    active, temperature = tl.load(active_ptr + row) != 0, tl.load(temperature_ptr + row)
    floor = _min_p_key(tl.load(min_p_ptr + row))
    top_k, top_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row)
    prefetch_and_wait(0, 1, prefetch, prefetch_bytes, PDL)
    if active:
        peak = tl.max(_load_maxima(maxima_ptr, row, tl.num_programs(0), MAXIMA), axis=0)
        if block == 0:
            tl.store(peak_ptr + row, peak)
        if _is_finite(peak) & (temperature > 0):
            _, key = _block(logits_ptr + row * stride, block, vocabulary, peak, temperature)
            weight = _weight(key)
            in_bracket = (key <= _counted(floor, top_k, top_p, vocabulary, TOP_K, TOP_P)) & (weight > 0)
            at = row * tl.num_programs(0) + block
            if TOP_K or TOP_P:
                tl.store(mass_ptr + at, tl.sum(weight, axis=0))
                bins = row * BINS + _bin(key)
                # Whole numbers: the sums are the same in any order.
                if TOP_K:
                    tl.atomic_add(
                        binned_count_ptr + bins, in_bracket.to(tl.int32), mask=in_bracket, sem="relaxed"
                    )
                if TOP_P:
                    tl.atomic_add(binned_mass_ptr + bins, weight, mask=in_bracket, sem="relaxed")
            else:
                tl.store(certain_mass_ptr + at, tl.sum(tl.where(in_bracket, weight, 0), axis=0))
                if block == 0:
                    tl.store(low_ptr + row, floor + 1)
                    tl.store(limit_ptr + row, floor)


@triton.jit
def _bracket_kernel(
    logits_ptr, stride, vocabulary, active_ptr, temperature_ptr, min_p_ptr, top_k_ptr, top_p_ptr,
    peak_ptr, mass_ptr, binned_count_ptr, binned_mass_ptr, low_ptr, limit_ptr, top_p_mass_ptr,
    certain_mass_ptr,
    count_ptr,
    BLOCKS: tl.constexpr, TOP_K: tl.constexpr, TOP_P: tl.constexpr,
    prefetch, prefetch_bytes, PDL: tl.constexpr,
):  # fmt: skip
    """Find the row's bracket, and a block's weight before the bracket and its token count inside.

    One program for each block and row; the grid is (blocks, rows).
    """
    launch_dependents(PDL)
    block, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    active, temperature = tl.load(active_ptr + row) != 0, tl.load(temperature_ptr + row)
    floor = _min_p_key(tl.load(min_p_ptr + row))
    top_k, top_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row)
    prefetch_and_wait(0, 1, prefetch, prefetch_bytes, PDL)
    if active:
        peak = tl.load(peak_ptr + row)
        if _is_finite(peak) & (temperature > 0):
            blocks = tl.num_programs(0)
            _, key = _block(logits_ptr + row * stride, block, vocabulary, peak, temperature)
            mass = tl.sum(_load_blocks(mass_ptr, row, blocks, BLOCKS), axis=0)
            low, limit, top_p_mass = _bracket(
                binned_count_ptr + row * BINS, binned_mass_ptr + row * BINS, mass, floor, top_k, top_p,
                vocabulary, TOP_K, TOP_P,
            )  # fmt: skip
            if block == 0:
                tl.store(low_ptr + row, low)
                tl.store(limit_ptr + row, limit)
                tl.store(top_p_mass_ptr + row, top_p_mass)
            at = row * blocks + block
            tl.store(certain_mass_ptr + at, tl.sum(tl.where(key < low, _weight(key), 0), axis=0))
            tl.store(count_ptr + at, tl.sum(((key >= low) & (key <= limit)).to(tl.int32), axis=0))


@triton.jit
def _gather_kernel(
    logits_ptr, stride, vocabulary, active_ptr, temperature_ptr,
    peak_ptr, low_ptr, limit_ptr, count_ptr, ids_ptr,
    BLOCKS: tl.constexpr,
    prefetch, prefetch_bytes, PDL: tl.constexpr,
):  # fmt: skip
    """Write the ids of a block's tokens in the bracket, after those of earlier blocks.

    One program for each block and row; the grid is (blocks, rows).
    """
    launch_dependents(PDL)
    block, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    active, temperature = tl.load(active_ptr + row) != 0, tl.load(temperature_ptr + row)
    prefetch_and_wait(0, 1, prefetch, prefetch_bytes, PDL)
    if active:
        peak = tl.load(peak_ptr + row)
        if _is_finite(peak) & (temperature > 0):
            count = _load_blocks(count_ptr, row, tl.num_programs(0), BLOCKS)
            before = tl.sum(tl.where(tl.arange(0, BLOCKS) < block, count, 0), axis=0)
            token, key = _block(logits_ptr + row * stride, block, vocabulary, peak, temperature)
            in_bracket = (key >= tl.load(low_ptr + row)) & (key <= tl.load(limit_ptr + row))
            place = before + tl.cumsum(in_bracket.to(tl.int32), axis=0) - 1
            tl.store(ids_ptr + row * vocabulary + place, token, mask=in_bracket)


@triton.jit(do_not_specialize=["null_slot"])  # which follows from the memory there is
def _draw_kernel(
    logits_ptr, stride, vocabulary, active_ptr, temperature_ptr, blocks,
    min_p_ptr, top_k_ptr, top_p_ptr, seed_ptr, step_ptr,
    maxima_ptr, peak_ptr, low_ptr, limit_ptr, top_p_mass_ptr, certain_mass_ptr, binned_count_ptr,
    count_ptr, ids_ptr, edge_ptr, ties_ptr, token_ptr, position_ptr, status_ptr, slot_ptr, token_mask_ptr,
    stop_ids_ptr, null_slot, final_settings_ptr, NUM_STOP_IDS: tl.constexpr, FINAL: tl.constexpr,
    MAXIMA: tl.constexpr, BLOCKS: tl.constexpr, TOP_K: tl.constexpr, TOP_P: tl.constexpr,
    prefetch, prefetch_bytes, PDL: tl.constexpr,
):  # fmt: skip
    """Find the exact edges of the filters, draw from the tokens that they keep, and update the row's state.

    One program for each row.
    """
    launch_dependents(PDL)
    row = tl.program_id(0).to(tl.int64)
    active, temperature = tl.load(active_ptr + row) != 0, tl.load(temperature_ptr + row)
    floor = _min_p_key(tl.load(min_p_ptr + row))
    top_k, top_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row)
    random_bits = _random_bits(tl.load(seed_ptr + row), tl.load(step_ptr + row))
    prefetch_and_wait(0, 1, prefetch, prefetch_bytes, PDL)
    if active:
        logits_ptr += row * stride
        peak = tl.load(peak_ptr + row)
        token = tl.full((), 0, tl.int32)
        if temperature <= 0:
            maxima = _load_maxima(maxima_ptr, row, blocks, MAXIMA)
            token = _first_at(logits_ptr, vocabulary, maxima, peak)
        elif _is_finite(peak):
            low, limit = tl.load(low_ptr + row), tl.load(limit_ptr + row)
            certain_masses = _load_blocks(certain_mass_ptr, row, blocks, BLOCKS)
            certain, in_bracket = tl.sum(certain_masses, axis=0), tl.full((), 0, tl.int64)
            edge, ties = floor, tl.full((), NO_LIMIT, tl.int64)
            if TOP_K or TOP_P:
                ids_ptr += row * vocabulary
                remaining = tl.sum(_load_blocks(count_ptr, row, blocks, BLOCKS), axis=0)
                if remaining > 0:
                    mass = tl.load(top_p_mass_ptr + row)
                    edge, ties, in_bracket = _edges(
                        ids_ptr, logits_ptr, remaining, peak, temperature, vocabulary, low, limit,
                        binned_count_ptr + row * BINS, certain, mass, floor, top_k, top_p, TOP_K, TOP_P,
                    )  # fmt: skip
            target = _scale_random(random_bits, certain + in_bracket)
            if target < certain:
                token = _draw_certain(logits_ptr, peak, temperature, vocabulary, certain_masses, low, target)
            elif TOP_K or TOP_P:
                target -= certain
                token = _pick(
                    ids_ptr, logits_ptr, 0, remaining, peak, temperature, vocabulary, edge, ties, target, True
                )
            tl.store(edge_ptr + row, edge)
            tl.store(ties_ptr + row, ties)
        left = _is_final(final_settings_ptr, row, temperature, peak) if FINAL else False
        if not left:
            _finish(
                row, token, peak, vocabulary, token_ptr, step_ptr, position_ptr, status_ptr, slot_ptr,
                token_mask_ptr,
                stop_ids_ptr, null_slot, NUM_STOP_IDS,
            )  # fmt: skip


# --- edges and the draw ----------------------------------------------------------------------------------


@triton.jit
def _draw_certain(logits_ptr, peak, temperature, vocabulary, masses, low, target):
    """Draw a token before the bracket: first its block, then the token in it.

    `masses`: the weight of each block's tokens before the bracket. `target`: the cumulative weight to draw.
    """
    block = tl.sum((tl.cumsum(masses, axis=0) <= target).to(tl.int32), axis=0)
    target -= tl.sum(tl.where(tl.arange(0, masses.shape[0]) < block, masses, 0), axis=0)
    begin, end = block * BLOCK, tl.minimum(block * BLOCK + BLOCK, vocabulary)
    ties = tl.full((), NO_LIMIT, tl.int64)
    return _pick(
        logits_ptr, logits_ptr, begin, end, peak, temperature, vocabulary, low - 1, ties, target, False
    )


@triton.jit
def _bracket(
    binned_count_ptr, binned_mass_ptr, mass, floor, top_k, top_p, vocabulary,
    TOP_K: tl.constexpr, TOP_P: tl.constexpr,
):  # fmt: skip
    """Return the first and the last key of the bracket, and the weight up to the edge of top-p.

    `mass`: the weight of the whole vocabulary. With top-k, the returned weight is a lower bound. The bracket
    is empty if min-p alone decides, since all kept tokens are then before it.
    """
    top_p_mass = tl.full((), 0, tl.int64)
    low, limit = tl.full((), 0, tl.int32), _counted(floor, top_k, top_p, vocabulary, TOP_K, TOP_P)
    bins = tl.arange(0, BINS)
    filters_k = _filters_k(top_k, vocabulary, TOP_K)
    if TOP_P:
        masses = tl.load(binned_mass_ptr + bins)
    if TOP_K:
        counts = tl.load(binned_count_ptr + bins)
        number = tl.minimum(top_k, tl.sum(counts, axis=0))
        bin_k = tl.sum((tl.cumsum(counts, axis=0) < number).to(tl.int32), axis=0)
        if filters_k:
            low, limit = _first_key(bin_k), tl.minimum(_first_key(bin_k + 1) - 1, limit)
            if TOP_P:
                # Top-p takes its share of all that top-k keeps: of that, this much is certain.
                mass = tl.sum(tl.where(bins < bin_k, masses, 0), axis=0)
    if TOP_P:
        top_p_mass = tl.maximum(tl.minimum(_top_p_mass(top_p, mass), tl.sum(masses, axis=0)), 1)
        bin_p = tl.sum((tl.cumsum(masses, axis=0) < top_p_mass).to(tl.int32), axis=0)
        if top_p < 1:
            low = _first_key(bin_p)
            if not filters_k:
                limit = tl.minimum(_first_key(bin_p + 1) - 1, limit)
    filters = filters_k | _filters_p(top_p, TOP_P)
    # Where min-p keeps less than the other filters would, there is nothing to be searched for either.
    nothing = (floor < low) | (filters == 0)
    return tl.where(nothing, floor + 1, low), tl.where(nothing, floor, limit), top_p_mass


@triton.jit
def _counted(floor, top_k, top_p, vocabulary, TOP_K: tl.constexpr, TOP_P: tl.constexpr):
    """Return the largest key to count: min-p's bound, or KEY_INF if both top-k and top-p filter.

    With both filters, top-p takes a fraction of the weight of all tokens that top-k keeps, so all tokens
    count.
    """
    both = _filters_k(top_k, vocabulary, TOP_K) & _filters_p(top_p, TOP_P)
    return tl.where(both, KEY_INF, floor)


@triton.jit
def _edges(
    ids_ptr, logits_ptr, remaining, peak, temperature, vocabulary, low, limit, binned_count_ptr, certain,
    top_p_mass,
    floor, top_k, top_p, TOP_K: tl.constexpr, TOP_P: tl.constexpr,
):  # fmt: skip
    """Return the last kept key, how many tokens with this key are kept, and the kept weight of the bracket.

    `certain`: the weight of the tokens before the bracket. `top_p_mass`: the weight up to the edge of top-p,
    ignoring top-k.
    """
    edge, ties = limit, tl.full((), NO_LIMIT, tl.int64)
    filters_k, filters_p = _filters_k(top_k, vocabulary, TOP_K), _filters_p(top_p, TOP_P)
    if TOP_K:  # noqa: SIM102 (the outer one decides at compile time)
        if filters_k:
            bins = tl.arange(0, BINS)
            counts = tl.load(binned_count_ptr + bins)
            before = tl.sum(tl.where(_first_key(bins) < low, counts, 0), axis=0)
            # Fewer than k are left where min-p leaves fewer.
            number = (tl.minimum(top_k - before, remaining)).to(tl.int64)
            edge, _ = _search(
                ids_ptr, logits_ptr, remaining, peak, temperature, vocabulary, low, limit, edge, number, False
            )
            if filters_p:
                whole = certain + _kept_mass(
                    ids_ptr, logits_ptr, remaining, peak, temperature, vocabulary, edge, ties
                )
                top_p_mass = tl.maximum(tl.minimum(_top_p_mass(top_p, whole), whole), 1)
    kept = tl.full((), 0, tl.int64)
    if TOP_P:  # noqa: SIM102
        if filters_p:
            # A token is kept if the likelier ones have less than this.
            edge, likelier = _search(
                ids_ptr,
                logits_ptr,
                remaining,
                peak,
                temperature,
                vocabulary,
                low,
                limit,
                edge,
                top_p_mass - certain,
                True,
            )
            weight = tl.maximum(_weight(edge), 1)
            ties = tl.cdiv(top_p_mass - certain - likelier, weight)
            kept = likelier + ties * weight
    if (floor < edge) | (filters_p == 0):
        edge, ties = tl.minimum(edge, floor), tl.full((), NO_LIMIT, tl.int64)
        kept = _kept_mass(ids_ptr, logits_ptr, remaining, peak, temperature, vocabulary, edge, ties)
    return edge, ties, kept


@triton.jit
def _top_p_mass(top_p, mass):
    """Return the weight that the tokens kept by top-p must reach, out of `mass`."""
    return tl.ceil(top_p.to(tl.float64) * mass.to(tl.float64)).to(tl.int64)


@triton.jit
def _search(
    ids_ptr, logits_ptr, remaining, peak, temperature, vocabulary, low, limit, edge, target,
    WEIGHTS: tl.constexpr,
):  # fmt: skip
    """Find the smallest key, from `low` to `limit`, at which the cumulative sum reaches `target`.

    Sums the weights of the tokens in the bracket up to key `edge`, or their number without `WEIGHTS`. Returns
    the key, and the sum over all smaller keys.
    """
    below = tl.full((), 0, tl.int64)
    _, first = _tile(ids_ptr, logits_ptr, 0, remaining, peak, temperature, vocabulary, True)
    first_values = _values(first, edge, WEIGHTS)
    bit = tl.full((), TOP_BIT, tl.int32)  # the highest one of the interval's size
    while (bit > 0) & ((limit - low) >> bit == 0):
        bit -= 1
    for number in range(bit // DIGIT + 1):
        shift = tl.maximum(bit + 1 - DIGIT * (number + 1), 0)
        sums = _sums(first, first_values, low, shift)
        for start in range(TILE, remaining, TILE):
            _, key = _tile(ids_ptr, logits_ptr, start, remaining, peak, temperature, vocabulary, True)
            sums += _sums(key, _values(key, edge, WEIGHTS), low, shift)
        low, below = _narrow(sums, low, below, shift, target)
    return low, below


@triton.jit
def _values(key, limit, WEIGHTS: tl.constexpr):
    return tl.where(key <= limit, _weight(key) if WEIGHTS else 1, 0).to(tl.int64)


@triton.jit
def _last_keys(low, shift):
    """Return the last key of each of `RADIX` intervals of 2^shift keys; the first begins at `low`."""
    return low + (tl.arange(0, RADIX) << shift) + ((1 << shift) - 1)


@triton.jit
def _sums(key, values, low, shift):
    """Return the sum of the values up to the end of each interval, `[RADIX]`."""
    return tl.sum(tl.where(key[:, None] <= _last_keys(low, shift)[None, :], values[:, None], 0), axis=0)


@triton.jit
def _narrow(sums, low, below, shift, target):
    """Find the interval in which the cumulative sum reaches `target`.

    Returns the interval's first key, and the cumulative sum before this key.
    """
    short = sums < target
    below = tl.maximum(below, tl.max(tl.where(short, sums, 0), axis=0))
    return low + (tl.sum(short.to(tl.int32), axis=0) << shift), below


@triton.jit
def _kept_mass(ids_ptr, logits_ptr, remaining, peak, temperature, vocabulary, edge, ties):
    """Return the weight of the bracket's kept tokens.

    These are the tokens with keys below `edge`, and the first `ties` tokens with the key `edge`.
    """
    total = tl.full((), 0, tl.int64)
    for start in range(0, remaining, TILE):
        _, key = _tile(ids_ptr, logits_ptr, start, remaining, peak, temperature, vocabulary, True)
        mass, tied = _tile_mass(key, edge, ties)
        total += mass
        ties -= tied
    return total


@triton.jit
def _tile_mass(key, edge, ties):
    """Return a tile's kept weight and the number of its kept tokens with key `edge`, at most `ties`."""
    tied = tl.minimum(tl.sum((key == edge).to(tl.int64), axis=0), ties)
    return tl.sum(tl.where(key < edge, _weight(key), 0), axis=0) + tied * _weight(edge), tied


@triton.jit
def _pick(
    ids_ptr, logits_ptr, begin, end, peak, temperature, vocabulary,
    edge, ties, target, GATHERED: tl.constexpr,
):  # fmt: skip
    """Find the first kept token, at places `begin` to `end`, at which the summed weight exceeds `target`."""
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
    """Load the ids and keys of the next `TILE` tokens, at places from `start` to `end`.

    A place is an index into the gathered ids if `GATHERED`, otherwise a token id.
    """
    place = start + tl.arange(0, TILE)
    inside = place < end
    token = tl.load(ids_ptr + place, mask=inside, other=0) if GATHERED else place
    x = tl.load(logits_ptr + token, mask=inside, other=float("-inf"))
    return tl.where(inside, token, vocabulary), _key(x, peak, temperature)


# --- numbers ---------------------------------------------------------------------------------------------


@triton.jit
def _bits(distance):
    """Return the bits of non-negative float32 numbers as integers, which have the same order."""
    return distance.to(tl.int32, bitcast=True) & MAGNITUDE


@triton.jit
def _key(x, peak, temperature):
    return _bits(tl.div_rn(x - peak, tl.maximum(temperature, TINY)))


@triton.jit
def _bin(key):
    """Return the bin that a key falls into."""
    return tl.minimum(tl.maximum((key >> BIN_SHIFT) - FIRST_BIN, 0), BINS - 1)


@triton.jit
def _first_key(number):
    """Return the first key of a bin; for bin `BINS`, the end of the last bin."""
    return tl.where(number > 0, (number + FIRST_BIN) << BIN_SHIFT, 0)


@triton.jit
def _weight(key):
    return (tl.exp(-key.to(tl.float32, bitcast=True)) * WEIGHT_ONE).to(tl.int64)


@triton.jit
def _min_p_key(min_p):
    return tl.where(min_p > 0, _bits(tl.log(tl.maximum(min_p, TINY))), KEY_INF)


@triton.jit
def _random_bits(seed, step, stream: tl.constexpr = 0):
    """Return the 53 random bits of `jet.ops.sampling.uniform` as the upper bits of a uint64."""
    low, high = (step & 0xFFFFFFFF).to(tl.uint32), (step >> 32).to(tl.uint32)
    first, second, _, _ = tl.philox(seed, low, high, low * 0 + stream, low * 0)
    return (first.to(tl.uint64) << 32) | ((second >> 11) << 11).to(tl.uint64)


@triton.jit
def _scale_random(bits, total):
    """Scale random bits to an integer from 0 to `total` - 1."""
    return tl.umulhi(bits, total.to(tl.uint64)).to(tl.int64)


@triton.jit
def _is_finite(x):
    return tl.abs(x) < float("inf")


@triton.jit
def _is_final(settings_ptr, row, temperature, peak):
    """Return whether a row is drawn behind the filters, by `final_samplers`."""
    settings_ptr += row * FINAL_SETTINGS
    xtc, target, tau = tl.load(settings_ptr), tl.load(settings_ptr + 2), tl.load(settings_ptr + 4)
    final = (xtc > 0) | (target >= 0) | (tau >= 0) | (tl.load(settings_ptr + 6) != 1)
    return final & (temperature > 0) & _is_finite(peak)


@triton.jit
def _filters_k(top_k, vocabulary, TOP_K: tl.constexpr):
    return (top_k > 0) & (top_k < vocabulary) & TOP_K


@triton.jit
def _filters_p(top_p, TOP_P: tl.constexpr):
    return (top_p < 1) & TOP_P


# --- memory ----------------------------------------------------------------------------------------------


@triton.jit
def _block(logits_ptr, block, vocabulary, peak, temperature):
    """Load a block of logits; return its token ids and sampling keys."""
    token = block * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits_ptr + token, mask=token < vocabulary, other=float("-inf"))
    return token, _key(x, peak, temperature)


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
    """Return the first token whose logit is `peak`."""
    index = tl.arange(0, maxima.shape[0])
    group = tl.min(tl.where(maxima == peak, index, maxima.shape[0] - 1), axis=0)
    token = group * GROUP + tl.arange(0, GROUP)
    x = tl.load(logits_ptr + token, mask=token < vocabulary, other=float("-inf"))
    return tl.min(tl.where(x == peak, token, vocabulary), axis=0)


@triton.jit
def _finish(
    row, token, peak, vocabulary, token_ptr, step_ptr, position_ptr, status_ptr, slot_ptr, token_mask_ptr,
    stop_ids_ptr, null_slot, NUM_STOP_IDS: tl.constexpr,
):  # fmt: skip
    """Write the drawn token and update the row's state; set `status` if the logits are not finite."""
    if _is_finite(peak) & (token < vocabulary):
        slot = tl.load(slot_ptr + row)
        tl.store(token_ptr + row, token.to(token_ptr.dtype.element_ty))
        tl.store(step_ptr + row, tl.load(step_ptr + row) + 1)
        tl.store(position_ptr + row, tl.load(position_ptr + row) + 1)
        tl.store(token_mask_ptr + slot.to(tl.int64) * vocabulary + token, 1)
        for number in tl.static_range(NUM_STOP_IDS):
            if tl.load(stop_ids_ptr + number) == token:
                tl.store(slot_ptr + row, null_slot)
    else:
        tl.store(status_ptr + row, 1)
