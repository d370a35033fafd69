"""XTC, mirostat 2, adaptive-p and a late temperature on the device: the draw of rows that use them.

Computes the samplers of `jet.ops.sampler_chain` in their default order, and draws as its `draw_from` does, so
that a request has the same story on every device, up to near ties. It is launched only if a row of the batch
uses these samplers. One program for each row reads the logits two or three times from the L2 cache:

1. Sum the weights of the tokens that the filters or mirostat keep, after dividing the logits by a temperature
   that comes behind the filters.
2. If XTC acts in this step: gather the likely tokens, and exclude all but one of them.
3. Gather the tokens that may be drawn. Likelier tokens are drawn first, so for XTC and mirostat the random
   number and the histogram of `fused_sampling` leave a few; adaptive-p needs all that the filters keep.
4. Draw one of them, and update the row and its `sampler_state`.

XTC and mirostat use the keys and weights of `fused_sampling`. Adaptive-p gives tokens other logits: there a
token's key has the bits of a float64, the distance of its logit from the highest possible one.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator, unused-ignore"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from jet.ops.decode_batch import DecodeBatch
from jet.ops.sampler_chain import ADAPTIVE_PEAK, ADAPTIVE_SHARPNESS, ADAPTIVE_WIDTH
from jet.ops.sampling import XTC_STREAM
from jet.ops.triton.common import launch_dependents, launch_options, prefetch_and_wait
from jet.ops.triton.fused_sampling import (
    BINS,
    DIGIT,
    FINAL_SETTINGS,
    KEY_INF,
    MAGNITUDE,
    NO_LIMIT,
    RADIX,
    TILE,
    TINY,
    WEIGHT_ONE,
    SamplerScratch,
    _finish,
    _first_key,
    _is_final,
    _key,
    _load_blocks,
    _random_bits,
    _scale_random,
    _tile,
    _weight,
)
from jet.ops.triton.shape_logits import ShapeBuffers

GATHER = tl.constexpr(2048)  # tokens that a program looks at together to find those that are kept
WARPS = 8
LN2 = tl.constexpr(0.6931471805599453)
FAR = tl.constexpr(1e30)  # a distance that keeps all tokens
CHANCES = tl.constexpr(2.0**53)  # as many random numbers there are
ROUNDING_KEYS = tl.constexpr(64)  # of a logarithm
LARGEST_KEY = tl.constexpr(2**63 - 1)
WIDTH, PEAK, SHARPNESS, STREAM = (
    tl.constexpr(value) for value in (ADAPTIVE_WIDTH, ADAPTIVE_PEAK, ADAPTIVE_SHARPNESS, XTC_STREAM)
)


def draw_final(
    logits: Tensor,
    rows: DecodeBatch,
    token_mask: Tensor,
    scratch: SamplerScratch,
    xtc_special: Tensor,
    *,
    shape: ShapeBuffers | None = None,
    pdl: bool = False,
) -> None:
    """Draw the rows that `fused_sampling.sample` has left, with the same arguments.

    Args:
        logits: `[B, V]` float32.
        rows: the rows' parameters and states; `final_settings` says which are drawn.
        token_mask: `[slots, V]` uint8; the drawn token is added.
        scratch: as `sample` left it; `ids` is overwritten.
        xtc_special: uint8 `[V]`, 1 for tokens that XTC must not exclude.
        shape: must be given if the samplers of `shape_logits` were used.
        pdl: use programmatic dependent launch.
    """
    temperature = rows.temperature
    if shape is not None:
        logits, temperature = shape.logits, shape.temperature
    blocks = scratch.mass.shape[1]
    _final_kernel[(len(logits),)](
        logits, logits.stride(0), logits.shape[1], rows.active, temperature, rows.seed, rows.step,
        scratch.peak, scratch.mass, scratch.binned_mass, blocks, scratch.edge, scratch.ties, scratch.ids,
        xtc_special,
        rows.final_settings, rows.sampler_state, rows.token, rows.position, rows.status, rows.slot,
        token_mask, rows.stop_ids, rows.null_slot, NUM_STOP_IDS=len(rows.stop_ids),
        BLOCKS=triton.next_power_of_2(blocks), **launch_options(WARPS, pdl),
    )  # fmt: skip


@triton.jit(do_not_specialize=["null_slot"])  # which follows from the memory there is
def _final_kernel(
    logits_ptr, stride, vocabulary, active_ptr, temperature_ptr, seed_ptr, step_ptr,
    peak_ptr, mass_ptr, binned_mass_ptr, blocks, edge_ptr, ties_ptr, ids_ptr, special_ptr,
    settings_ptr, state_ptr, token_ptr, position_ptr, status_ptr, slot_ptr, token_mask_ptr,
    stop_ids_ptr, null_slot, NUM_STOP_IDS: tl.constexpr, BLOCKS: tl.constexpr,
    prefetch, prefetch_bytes, PDL: tl.constexpr,
):  # fmt: skip
    """Draw a row by its final samplers, and update its state. One program for each row."""
    launch_dependents(PDL)
    prefetch_and_wait(0, 1, prefetch, prefetch_bytes, PDL)
    row = tl.program_id(0).to(tl.int64)
    temperature, peak = tl.load(temperature_ptr + row), tl.load(peak_ptr + row)
    if (tl.load(active_ptr + row) != 0) & _is_final(settings_ptr, row, temperature, peak):
        logits_ptr += row * stride
        ids_ptr += row * vocabulary
        seed, step = tl.load(seed_ptr + row), tl.load(step_ptr + row)
        settings = settings_ptr + row * FINAL_SETTINGS
        xtc_probability, xtc_threshold = tl.load(settings), tl.load(settings + 1)
        target_p, decay = tl.load(settings + 2), tl.load(settings + 3)
        tau, eta = tl.load(settings + 4), tl.load(settings + 5)
        late = tl.load(settings + 6).to(tl.float32)
        state = state_ptr + 2 * row
        first, second = tl.load(state), tl.load(state + 1)
        edge, ties = tl.load(edge_ptr + row), tl.load(ties_ptr + row)
        if tau >= 0:
            whole = tl.sum(_load_blocks(mass_ptr, row, blocks, BLOCKS), axis=0)
            edge, ties = _mirostat_edge(first, whole)
        mass = _kept_mass(logits_ptr, vocabulary, peak, temperature, late, edge, ties)
        last_key, last_id = tl.full((), -1, tl.int32), tl.full((), -1, tl.int32)
        excluded = tl.full((), 0, tl.int64)
        xtc_bits = (_random_bits(seed, step, STREAM) >> 11).to(tl.int64)
        if xtc_bits.to(tl.float64) < xtc_probability * CHANCES:
            limit = _likely_limit(mass, xtc_threshold)
            count = _gather(logits_ptr, ids_ptr, vocabulary, peak, temperature, late, edge, ties, limit)
            last_key, last_id, excluded = _exclude(
                ids_ptr, logits_ptr, count, peak, temperature, late, vocabulary, mass, xtc_threshold,
                special_ptr,
            )  # fmt: skip
            mass -= excluded
        aim, nearest = tl.full((), -1.0, tl.float64), tl.full((), 0.0, tl.float64)  # adaptive-p is off
        top_shift = tl.full((), 30, tl.int64)
        bits = _random_bits(seed, step)
        if target_p >= 0:
            aim = tl.minimum(tl.maximum(2 * target_p - first / second, 0.0), 1.0)
            top_shift = tl.full((), 60, tl.int64)
            count = _gather(logits_ptr, ids_ptr, vocabulary, peak, temperature, late, edge, ties, KEY_INF)
            nearest, total = _adapted_total(
                ids_ptr, logits_ptr, count, peak, temperature, late, vocabulary, last_key, last_id, mass, aim
            )
            target = _scale_random(bits, total)
        else:
            # Likelier tokens are drawn first: those behind the one to be drawn need no look.
            target = _scale_random(bits, mass)
            limit = _limit_of(binned_mass_ptr + row * BINS, target + excluded, late)
            count = _gather(logits_ptr, ids_ptr, vocabulary, peak, temperature, late, edge, ties, limit)
        token = _draw(
            ids_ptr, logits_ptr, count, peak, temperature, late, vocabulary, last_key, last_id, mass,
            aim, nearest, target, top_shift,
        )  # fmt: skip
        x = tl.load(logits_ptr + tl.minimum(token, vocabulary - 1))
        distance = _distance(_late_key(_key(x, peak, temperature), late))
        if tau >= 0:
            surprise = (tl.log(mass.to(tl.float64) / WEIGHT_ONE) + distance) / LN2
            tl.store(state, first - eta * (surprise - tau))
        if target_p >= 0:
            tl.store(state, _probability(distance, mass) + decay * first)
            tl.store(state + 1, 1 + decay * second)
        _finish(
            row, token, peak, vocabulary, token_ptr, step_ptr, position_ptr, status_ptr, slot_ptr,
            token_mask_ptr,
            stop_ids_ptr, null_slot, NUM_STOP_IDS,
        )  # fmt: skip


# --- what the filters and mirostat keep ------------------------------------------------------------------


@triton.jit
def _mirostat_edge(mu, mass):
    """Return the last key with a surprise of at most `mu` bits, and how many tokens with it are kept.

    Where even the likeliest token's surprise is larger, the first one of the likeliest is kept.
    """
    distance = mu * LN2 - tl.log(mass.to(tl.float64) / WEIGHT_ONE)
    near = tl.minimum(tl.maximum(distance, 0.0), FAR).to(tl.float32)
    edge = near.to(tl.int32, bitcast=True) - (near.to(tl.float64) > distance).to(tl.int32)
    nothing = distance < 0
    return tl.where(nothing, 0, edge), tl.where(nothing, 1, NO_LIMIT).to(tl.int64)


@triton.jit
def _kept_mass(logits_ptr, vocabulary, peak, temperature, late, edge, ties):
    """Return the weight of the tokens with keys below `edge` and the first `ties` with this key."""
    masses, tied = tl.zeros([GATHER], tl.int64), tl.zeros([GATHER], tl.int64)
    for start in range(0, vocabulary, GATHER):
        _, key = _load_keys(logits_ptr, start, vocabulary, peak, temperature)
        masses += tl.where(key < edge, _weight(_late_key(key, late)), 0)
        tied += (key == edge).to(tl.int64)
    return tl.sum(masses, axis=0) + tl.minimum(tl.sum(tied, axis=0), ties) * _weight(_late_key(edge, late))


@triton.jit
def _gather(logits_ptr, ids_ptr, vocabulary, peak, temperature, late, edge, ties, limit):
    """Write the ids of the kept tokens with late keys up to `limit` in their order; return their number."""
    tl.debug_barrier()  # other threads may still read ids that were gathered before
    count = tl.full((), 0, tl.int32)
    for start in range(0, vocabulary, GATHER):
        token, key = _load_keys(logits_ptr, start, vocabulary, peak, temperature)
        late_key = _late_key(key, late)
        if (tl.min(key, axis=0) <= edge) & (tl.min(late_key, axis=0) <= limit):
            on_edge = key == edge
            within = tl.cumsum(on_edge.to(tl.int32), axis=0) <= ties
            kept = ((key < edge) | (on_edge & within)) & (late_key <= limit) & (_weight(late_key) > 0)
            place = count + tl.cumsum(kept.to(tl.int32), axis=0) - 1
            tl.store(ids_ptr + place, token, mask=kept)
            count += tl.sum(kept.to(tl.int32), axis=0)
            ties -= tl.sum(on_edge.to(tl.int64), axis=0)
    tl.debug_barrier()  # other threads read them
    return count


@triton.jit
def _load_keys(logits_ptr, start, vocabulary, peak, temperature):
    """Load the next `GATHER` logits of the row; return their ids and keys."""
    token = start + tl.arange(0, GATHER)
    x = tl.load(logits_ptr + token, mask=token < vocabulary, other=float("-inf"))
    return token, _key(x, peak, temperature)


# --- XTC ---------------------------------------------------------------------------------------------------


@triton.jit
def _likely_limit(mass, threshold):
    """Return a key that no token has exceeded whose share of `mass` is at least `threshold`."""
    distance = -tl.log(threshold * (mass.to(tl.float64) / WEIGHT_ONE))
    return tl.maximum(distance, 0.0).to(tl.float32).to(tl.int32, bitcast=True) + ROUNDING_KEYS


@triton.jit
def _exclude(
    ids_ptr, logits_ptr, count, peak, temperature, late, vocabulary, mass, threshold, special_ptr,
):  # fmt: skip
    """Return key and id of the one likely token that XTC keeps, and the weight of those that it excludes.

    It keeps the least likely one, of equally likely ones that with the highest id. A key of -1 says that it
    excludes none.
    """
    last_key, last_id = tl.full((), -1, tl.int32), tl.full((), -1, tl.int32)
    for start in range(0, count, TILE):
        token, key = _late_tile(ids_ptr, logits_ptr, start, count, peak, temperature, late, vocabulary)
        likely = _weight(key).to(tl.float64) / mass.to(tl.float64) >= threshold
        last_key = tl.maximum(last_key, tl.max(tl.where(likely, key, -1), axis=0))
    for start in range(0, count, TILE):
        token, key = _late_tile(ids_ptr, logits_ptr, start, count, peak, temperature, late, vocabulary)
        last_id = tl.maximum(last_id, tl.max(tl.where(key == last_key, token, -1), axis=0))
    excluded_mass, special = tl.full((), 0, tl.int64), tl.full((), 0, tl.int32)
    for start in range(0, count, TILE):
        token, key = _late_tile(ids_ptr, logits_ptr, start, count, peak, temperature, late, vocabulary)
        excluded = (key <= last_key) & (token != last_id)
        excluded_mass += tl.sum(tl.where(excluded, _weight(key), 0), axis=0)
        found = tl.load(special_ptr + token, mask=excluded, other=0)
        special = tl.maximum(special, tl.max(found.to(tl.int32), axis=0))
    return tl.where(special > 0, -1, last_key), last_id, tl.where(special > 0, 0, excluded_mass)


# --- the draw ----------------------------------------------------------------------------------------------


@triton.jit
def _limit_of(binned_mass_ptr, target, late):
    """Return a key up to which the tokens, before XTC, weigh more than `target`.

    The histogram has the weights before a late temperature: behind one, all tokens may be needed.
    """
    masses = tl.cumsum(tl.load(binned_mass_ptr + tl.arange(0, BINS)), axis=0)
    number = tl.sum((masses <= target).to(tl.int32), axis=0)
    return tl.where((number < BINS - 1) & (late == 1), _first_key(number + 1) - 1, KEY_INF)


@triton.jit
def _adapted_total(
    ids_ptr, logits_ptr, count, peak, temperature, late, vocabulary, last_key, last_id, mass, aim,
):  # fmt: skip
    """Return the smallest distance that adaptive-p gives to a token, and the weight of all tokens."""
    nearest_key, total = tl.full((), LARGEST_KEY, tl.int64), tl.full((), 0, tl.int64)
    nothing = tl.full((), 0.0, tl.float64)
    for start in range(0, count, TILE):
        _ids, key, _weights = _places(
            ids_ptr, logits_ptr, start, count, peak, temperature, late, vocabulary, last_key, last_id, mass,
            aim, nothing,
        )  # fmt: skip
        nearest_key = tl.minimum(nearest_key, tl.min(key, axis=0))
    nearest = nearest_key.to(tl.float64, bitcast=True)
    for start in range(0, count, TILE):
        _ids, _keys, weight = _places(
            ids_ptr, logits_ptr, start, count, peak, temperature, late, vocabulary, last_key, last_id, mass,
            aim, nearest,
        )  # fmt: skip
        total += tl.sum(weight, axis=0)
    return nearest, total


@triton.jit
def _draw(
    ids_ptr, logits_ptr, count, peak, temperature, late, vocabulary, last_key, last_id, mass, aim, nearest,
    target, top_shift,
):  # fmt: skip
    """Return the first gathered token, in the order of their keys, at which the weight exceeds `target`."""
    token, first_key, first_weight = _places(
        ids_ptr, logits_ptr, 0, count, peak, temperature, late, vocabulary, last_key, last_id, mass, aim,
        nearest,
    )  # fmt: skip
    low, below = tl.full((), 0, tl.int64), tl.full((), 0, tl.int64)
    for number in range(top_shift // DIGIT + 1):
        shift = top_shift - DIGIT * number
        size = tl.full((), 1, tl.int64) << shift
        last = low + tl.arange(0, RADIX).to(tl.int64) * size + (size - 1)
        sums = tl.sum(tl.where(first_key[:, None] <= last[None, :], first_weight[:, None], 0), axis=0)
        for start in range(TILE, count, TILE):
            token, key, weight = _places(
                ids_ptr, logits_ptr, start, count, peak, temperature, late, vocabulary, last_key, last_id,
                mass, aim, nearest,
            )  # fmt: skip
            sums += tl.sum(tl.where(key[:, None] <= last[None, :], weight[:, None], 0), axis=0)
        short = sums <= target
        below = tl.maximum(below, tl.max(tl.where(short, sums, 0), axis=0))
        low += tl.sum(short.to(tl.int64), axis=0) * size
    # Of the tokens with this key, all equally likely, the one that the rest of the target falls on.
    tied = tl.max(tl.where(first_key == low, first_weight, 1), axis=0)
    for start in range(TILE, count, TILE):
        token, key, weight = _places(
            ids_ptr, logits_ptr, start, count, peak, temperature, late, vocabulary, last_key, last_id, mass,
            aim, nearest,
        )  # fmt: skip
        tied = tl.maximum(tied, tl.max(tl.where(key == low, weight, 1), axis=0))
    number, seen, drawn = (target - below) // tied, tl.full((), 0, tl.int64), vocabulary
    for start in range(0, count, TILE):
        token, key, weight = _places(
            ids_ptr, logits_ptr, start, count, peak, temperature, late, vocabulary, last_key, last_id, mass,
            aim, nearest,
        )  # fmt: skip
        equal = key == low
        place = seen + tl.cumsum(equal.to(tl.int64), axis=0) - 1
        drawn = tl.minimum(drawn, tl.min(tl.where(equal & (place == number), token, vocabulary), axis=0))
        seen += tl.sum(equal.to(tl.int64), axis=0)
    return drawn


@triton.jit
def _places(
    ids_ptr, logits_ptr, start, count, peak, temperature, late, vocabulary, last_key, last_id, mass, aim,
    nearest,
):  # fmt: skip
    """Load the next `TILE` gathered tokens; return ids, keys of the draw as int64, and weights.

    Tokens that XTC has removed, and places from `count` on, weigh nothing and have the largest key.
    """
    token, key = _late_tile(ids_ptr, logits_ptr, start, count, peak, temperature, late, vocabulary)
    drawing_key, weight = key.to(tl.int64), _weight(key)
    if aim >= 0:
        distance = _adapted_distance(_probability(_distance(key), mass), aim)
        drawing_key = distance.to(tl.int64, bitcast=True)
        weight = (tl.exp(tl.minimum(nearest - distance, 0.0)) * WEIGHT_ONE).to(tl.int64)
    remains = ((key > last_key) | (token == last_id)) & (token < vocabulary)
    return token, tl.where(remains, drawing_key, LARGEST_KEY), tl.where(remains, weight, 0)


@triton.jit
def _late_tile(ids_ptr, logits_ptr, start, count, peak, temperature, late, vocabulary):
    """Load the next `TILE` gathered tokens; return ids and late keys."""
    token, key = _tile(ids_ptr, logits_ptr, start, count, peak, temperature, vocabulary, True)
    return token, _late_key(key, late)


# --- numbers ---------------------------------------------------------------------------------------------


@triton.jit
def _late_key(key, late):
    """Return the key of a token behind the late temperature."""
    heated = tl.div_rn(key.to(tl.float32, bitcast=True), tl.maximum(late, TINY))
    return heated.to(tl.int32, bitcast=True) & MAGNITUDE


@triton.jit
def _distance(key):
    """Return how far a logit, divided by the temperature, is below the largest one, as float64."""
    return key.to(tl.float32, bitcast=True).to(tl.float64)


@triton.jit
def _probability(distance, mass):
    """Return the probability of a token by its `_distance`; `mass`: the weight of all tokens."""
    return tl.exp(-distance) * WEIGHT_ONE / mass.to(tl.float64)


@triton.jit
def _adapted_distance(probability, aim):
    """Return how far the logit that adaptive-p gives to a token is below the highest possible one.

    It is rounded as the logit is, so that the same tokens tie.
    """
    distance = tl.abs(probability - aim) / WIDTH
    return PEAK - (PEAK - SHARPNESS * (distance * distance) / (1 + distance))
