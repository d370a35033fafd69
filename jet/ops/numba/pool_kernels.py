# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""Compiled kernels for the thread pool: linear layers and the JetBlock's state update, split into chunks.

A kernel is a C function of a job and the number of a chunk. A job is an array of int64 (addresses, sizes and
strides) in the order of `Job`. Kernels are compiled on first use and cached on disk; `_STAMP` is part of the
cache's key, since numba does not notice changes in other files.
"""

from __future__ import annotations

import zlib
from contextlib import suppress
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import types
from numba.core.ccallback import CFunc
from numba.core.sigutils import normalize_signature

from jet.ops.numba.isa_probe import best_isa
from jet.ops.numba.kernel_cache import KernelCache
from jet.ops.numba.kernels import (
    FASTMATH,
    ONE,
    ZERO,
    delta_rule,
    dot,
    dot4,
    inlined,
    narrow,
    normalized_silu,
    silu,
    softplus,
    widen,
)
from jet.ops.numba.simd import (
    dot_tile,
    offset_of,
    quantizer,
    view,
)

ISA = best_isa()
LANES, GROUP = 16, 32  # rows of a block, and activations that share a scale
_FILES = ("kernels.py", "pool_kernels.py", "simd.py")
_SOURCES = b"".join((Path(__file__).parent / name).read_bytes() for name in _FILES)
_STAMP = -1 - zlib.crc32(_SOURCES + ISA.encode())
_KERNEL = types.void(types.int64, types.int64)


class Job(IntEnum):
    """Indices of the fields of a linear layer's job.

    The first fields describe the activations `[BATCH, COLUMNS]`, the others the product.
    """

    BATCH = 0
    COLUMNS = 1
    SOURCE = 2  # float32 `[BATCH, COLUMNS]`, rows SOURCE_STRIDE elements apart
    SOURCE_STRIDE = 3
    BEFORE = 4  # what is done to the activations first: one of Before
    SCALE = 5  # the norm's weight, float32 `[COLUMNS]`, or `[HEAD]` for Before.GATED_NORM
    EPS = 6  # address of a float32
    HEAD = 7
    GATE = 8  # float32, rows GATE_STRIDE elements apart
    GATE_STRIDE = 9
    X = 10  # float32 `[BATCH, WIDTH]`: the activations, padded with zeros to WIDTH
    WIDTH = 11  # columns, padded in each run to a multiple of 64
    CODES = 12  # int8 `[BATCH, WIDTH]`, int32 and float32 `[BATCH, WIDTH / 32]`: see `simd.dot_tile`
    STARTS = 13
    FACTORS = 14
    SPAN = 15  # bytes of a row of codes without padding; columns of a run
    WEIGHT = 16  # codes in blocks, or numbers `[ROWS, COLUMNS]`
    WEIGHT_SCALES = 17
    ROWS = 18  # outputs
    STEP = 19  # rows of a chunk
    BLOCK = 20  # activations that are multiplied before a chunk's weights are read again, a multiple of 4
    AFTER = 21  # what becomes of the products: one of After
    BIAS = 22  # float32 `[ROWS]`, or 0
    OUT = 23  # float32 `[BATCH, ROWS]`, rows OUT_STRIDE elements apart
    OUT_STRIDE = 24
    FIRST = 25  # number of the first row within the blocks
    SIZE = 26


class Before(IntEnum):
    """The operation on activations before a product."""

    NOTHING = 0
    NORM = 1
    GATED_NORM = 2  # the norm by heads, times silu(gate)
    SILU = 3


class After(IntEnum):
    """The operation on the results of a product."""

    STORE = 0  # plus the bias
    ADD = 1
    SWIGLU = 2  # silu of the first ROWS rows' products times those of the next ROWS rows


# Numba takes plain integers as constants.
_BATCH, _COLUMNS, _SOURCE, _SOURCE_STRIDE, _BEFORE, _SCALE, _EPS, _HEAD = map(int, range(8))
_GATE, _GATE_STRIDE, _X, _WIDTH, _CODES, _STARTS, _FACTORS, _SPAN = map(int, range(8, 16))
_WEIGHT, _WEIGHT_SCALES, _ROWS, _STEP, _BLOCK, _AFTER, _BIAS, _OUT = map(int, range(16, 24))
_OUT_STRIDE, _FIRST, _SIZE = 24, 25, 26
_NORM, _GATED_NORM, _SILU = int(Before.NORM), int(Before.GATED_NORM), int(Before.SILU)
_ADD, _SWIGLU = int(After.ADD), int(After.SWIGLU)


# --- activations -----------------------------------------------------------------------------------------


@inlined
def prepare(job, row):
    """Apply the operation before the product to one row of activations, and write it to the job's X."""
    columns, span, width = job[_COLUMNS], job[_SPAN], job[_WIDTH]
    x = view(job[_SOURCE] + 4 * row * job[_SOURCE_STRIDE], columns, np.float32)
    out = view(job[_X] + 4 * row * width, width, np.float32)
    before, gap = job[_BEFORE], width // 2 - span  # from the end of the first run to the second one
    if before == _NORM:
        scale, eps = view(job[_SCALE], columns, np.float32), view(job[_EPS], 1, np.float32)[0]
        _norm(x, scale, eps, span, gap, out)
    elif before == _GATED_NORM:
        size = job[_HEAD]
        scale, eps = view(job[_SCALE], size, np.float32), view(job[_EPS], 1, np.float32)[0]
        gate = view(job[_GATE] + 4 * row * job[_GATE_STRIDE], columns, np.float32)
        for start in range(0, columns, size):
            factor = _norm_factor(x[start : start + size], eps)
            middle = max(start, min(span, start + size))
            for j in range(start, middle):
                out[j] = x[j] * factor * scale[j - start] * silu(gate[j])
            for j in range(middle, start + size):
                out[j + gap] = x[j] * factor * scale[j - start] * silu(gate[j])
    else:
        for j in range(min(span, columns)):
            out[j] = silu(x[j]) if before == _SILU else x[j]
        for j in range(span, columns):
            out[j + gap] = silu(x[j]) if before == _SILU else x[j]


@inlined
def _norm_factor(x, eps):
    squares = ZERO
    for j in range(x.shape[0]):
        squares += x[j] * x[j]
    return ONE / np.sqrt(squares / np.float32(x.shape[0]) + eps)


@inlined
def _norm(x, scale, eps, span, gap, out):
    factor, columns = _norm_factor(x, eps), x.shape[0]
    first = min(span, columns)
    for j in range(first):
        out[j] = x[j] * factor * scale[j]
    for j in range(first, columns):
        out[j + gap] = x[j] * factor * scale[j]


def _quantizing(scheme):
    """Create a function that prepares a row of activations and quantizes it for weights of a scheme."""
    quantize = quantizer(offset_of(scheme, ISA))

    @inlined
    def prepare_codes(job, row):
        prepare(job, row)
        width = job[_WIDTH]
        begin = row * width
        for place in range(begin, begin + width, GROUP):
            number = place // GROUP * 4
            quantize(job[_X] + 4 * place, job[_CODES] + place, job[_STARTS] + number, job[_FACTORS] + number)

    return prepare_codes


# --- products --------------------------------------------------------------------------------------------


@inlined
def finish(job, begin, end, one, products):
    """Apply the operation after the product to one row's `products`, and write them.

    `products`: `[parts, rows]`, of activation row `one` with weight rows `begin` to `end`.
    """
    count, after = end - begin, job[_AFTER]
    out = view(job[_OUT] + 4 * (one * job[_OUT_STRIDE] + begin), count, np.float32)
    if after == _ADD:
        for r in range(count):
            out[r] += products[0, r]
    elif after == _SWIGLU:
        for r in range(count):
            out[r] = silu(products[0, r]) * products[1, r]
    elif job[_BIAS] != 0:
        bias = view(job[_BIAS] + 4 * begin, count, np.float32)
        for r in range(count):
            out[r] = products[0, r] + bias[r]
    else:
        for r in range(count):
            out[r] = products[0, r]


def _multiplying(scheme):  # noqa: C901
    """Create a function that multiplies a chunk of quantized weight rows by all activations."""
    by_four, by_two, by_one = (dot_tile(scheme, ISA, count) for count in (4, 2, 1))
    int4 = scheme == "int4"

    @inlined
    def multiply(job, chunk):
        batch, rows, width = job[_BATCH], job[_ROWS], job[_WIDTH]
        span = width // 2 if int4 else width
        begin, end = chunk * job[_STEP], min(rows, (chunk + 1) * job[_STEP])
        parts, count = 2 if job[_AFTER] == _SWIGLU else 1, end - begin
        room = (count + 2 * LANES - 2) // LANES * LANES  # whole blocks that hold these rows
        products = np.empty((min(batch, job[_BLOCK]), parts, room), np.float32)
        stride = 4 * parts * room
        for first in range(0, batch, job[_BLOCK]):
            last = min(batch, first + job[_BLOCK])
            for part in range(parts):
                here = job[_FIRST] + part * rows + begin
                for block in range(here // LANES, (here + count + LANES - 1) // LANES):
                    codes = job[_WEIGHT] + block * LANES * span
                    scales = job[_WEIGHT_SCALES] + block * LANES * span // 16
                    out = products.ctypes.data + 4 * (part * room + block * LANES - here // LANES * LANES)
                    one = first
                    while one < last:
                        x, number = job[_CODES] + one * width, one * width // 8
                        starts, factors, to = (
                            job[_STARTS] + number,
                            job[_FACTORS] + number,
                            out + (one - first) * stride,
                        )
                        if one + 4 <= last:
                            by_four(codes, span, scales, x, starts, factors, width, to, stride)
                            one += 4
                        elif one + 2 <= last:
                            by_two(codes, span, scales, x, starts, factors, width, to, stride)
                            one += 2
                        else:
                            by_one(codes, span, scales, x, starts, factors, width, to, stride)
                            one += 1
            for one in range(first, last):
                found = products[one - first]
                for part in range(parts):
                    row = job[_FIRST] + part * rows + begin
                    shift = row % LANES
                    if int4:
                        for r in range(count if shift else 0):
                            found[part, r] = found[part, r + shift]
                    else:
                        own = view(job[_WEIGHT_SCALES] + 4 * row, count, np.float32)
                        for r in range(count):
                            found[part, r] = found[part, r + shift] * own[r]
                finish(job, begin, end, one, found)

    return multiply


def _multiplying_numbers(stored):
    """Create a function that multiplies a chunk of unquantized weight rows by all activations.

    `stored`: the stored type of the weights, see kernels.py.
    """

    @inlined
    def multiply(job, chunk):
        batch, rows, columns = job[_BATCH], job[_ROWS], job[_COLUMNS]
        begin, end = chunk * job[_STEP], min(rows, (chunk + 1) * job[_STEP])
        parts = 2 if job[_AFTER] == _SWIGLU else 1
        weight = view(job[_WEIGHT], (parts * rows, columns), stored)
        x = view(job[_X], (batch, columns), np.float32)
        fours = batch - batch % 4
        products = np.empty((batch, parts, end - begin), np.float32)
        for part in range(parts):
            for r in range(end - begin):
                row = part * rows + begin + r
                for one in range(0, fours, 4):
                    four = dot4(weight, row, x, one)
                    products[one, part, r], products[one + 1, part, r] = four[0], four[1]
                    products[one + 2, part, r], products[one + 3, part, r] = four[2], four[3]
                for one in range(fours, batch):
                    products[one, part, r] = dot(weight, row, x[one])
        for one in range(batch):
            finish(job, begin, end, one, products[one])

    return multiply


# --- JetBlock --------------------------------------------------------------------------------------------


class JetJob(IntEnum):
    """Indices of the fields of a job that updates the states of a JetBlock; sizes as in `JetSizes`."""

    HEADS = 0
    KEY = 1
    VALUE = 2
    TAPS = 3
    GENERATOR = 4
    PROJECTED = 5  # float32 q | k | w1 | v | g | a | b, rows PROJECTED_STRIDE elements apart
    PROJECTED_STRIDE = 6
    KERNELS = 7  # float32 `[BATCH, HEADS * VALUE, TAPS]`
    DECAY_RATE = 8  # float32 `[HEADS]`
    DT_BIAS = 9  # float32 `[HEADS]`
    SLOTS = 10  # int32 `[BATCH]`
    CONV = 11  # `[slots, HEADS * VALUE, TAPS]`
    RECURRENT = 12  # float32 `[slots, HEADS, KEY, VALUE]`
    OUT = 13  # float32 `[BATCH, HEADS * VALUE]`
    TOKENS = 14  # of a chunk: 1 if rows are tokens of different stories, BATCH if they follow each other
    SIZE = 15


_J_HEADS, _J_KEY, _J_VALUE, _J_TAPS, _J_GENERATOR, _J_PROJECTED, _J_STRIDE, _J_KERNELS = map(int, range(8))
_J_RATE, _J_BIAS, _J_SLOTS, _J_CONV, _J_RECURRENT, _J_OUT, _J_TOKENS, _J_SIZE = map(int, range(8, 16))


def _stepping(stored):
    """Create a function that updates one head's states by the tokens of a chunk.

    `stored`: the stored type of the convolution state, see kernels.py.
    """
    itemsize = np.dtype(stored).itemsize

    @inlined
    def step(job, chunk):
        heads, size, value, taps = job[_J_HEADS], job[_J_KEY], job[_J_VALUE], job[_J_TAPS]
        h, tokens, keys, values = chunk % heads, job[_J_TOKENS], heads * size, heads * value
        rate = view(job[_J_RATE], heads, np.float32)[h]
        shift = view(job[_J_BIAS], heads, np.float32)[h]
        v = np.empty(value, np.float32)
        for row in range(chunk // heads * tokens, (chunk // heads + 1) * tokens):
            given = view(job[_J_PROJECTED] + 4 * row * job[_J_STRIDE], job[_J_STRIDE], np.float32)
            inputs = given[2 * keys + job[_J_GENERATOR] :]
            a, b = inputs[2 * values + h], inputs[2 * values + heads + h]
            slot = np.int64(view(job[_J_SLOTS] + 4 * row, 1, np.int32)[0])
            kernels = view(job[_J_KERNELS] + 4 * (row * values + h * value) * taps, (value, taps), np.float32)
            place = (slot * values + h * value) * taps
            conv = view(job[_J_CONV] + place * itemsize, (value, taps), stored)
            _convolve(inputs[h * value : (h + 1) * value], kernels, conv, v)
            query = normalized_silu(given[h * size : (h + 1) * size], size**-0.5)
            key = normalized_silu(given[keys + h * size : keys + (h + 1) * size], 1.0)
            decay = np.exp(-np.exp(rate) * softplus(a + shift))
            beta = 1.0 / (1.0 + np.exp(-b))
            place = (slot * heads + h) * size * value
            state = view(job[_J_RECURRENT] + 4 * place, (size, value), np.float32)
            out = view(job[_J_OUT] + 4 * (row * values + h * value), value, np.float32)
            delta_rule(query, key, v, decay, beta, state, out)

    return step


@inlined
def _convolve(inputs, kernels, state, out):
    """Shift inputs `[channels]` into `state` `[channels, W]`, convolve it with `kernels`, and apply SiLU."""
    channels, taps = state.shape
    for c in range(channels):
        total = ZERO
        for w in range(taps):
            state[c, w] = state[c, w + 1] if w < taps - 1 else narrow(inputs[c], state)
            total += widen(state[c, w]) * kernels[c, w]
        out[c] = total
    for c in range(channels):
        out[c] = silu(out[c])


# --- addresses -------------------------------------------------------------------------------------------


@inlined
def read(job, chunk):
    """Read a chunk of memory and write the sum of its 8-byte words, to measure bandwidth.

    `job`: the memory's address, the number of all words, the words of a chunk, the address of the sums.
    """
    begin = chunk * job[2]
    words = view(job[0] + 8 * begin, min(job[2], job[1] - begin), np.uint64)
    total = np.uint64(0)
    for word in words:
        total += word
    view(job[3] + 8 * chunk, 1, np.uint64)[0] = total


_prepare_int8, _prepare_int4 = _quantizing("int8"), _quantizing("int4")
_multiply_int8, _multiply_int4 = _multiplying("int8"), _multiplying("int4")
_multiply_float32, _multiply_bfloat16, _multiply_float16 = map(
    _multiplying_numbers, (np.float32, np.uint16, np.int16)
)
_step_float32, _step_bfloat16, _step_float16 = map(_stepping, (np.float32, np.uint16, np.int16))


def _kernels(stamp):  # noqa: C901
    """Return the kernels as Python functions, by name.

    Each kernel compares its chunk number with `stamp`. They are never equal; the comparison only makes the
    stamp a part of the cache's key.
    """

    def prepare_numbers(job, chunk):
        if chunk != stamp:
            prepare(view(job, _SIZE, np.int64), chunk)

    def prepare_int8(job, chunk):
        if chunk != stamp:
            _prepare_int8(view(job, _SIZE, np.int64), chunk)

    def prepare_int4(job, chunk):
        if chunk != stamp:
            _prepare_int4(view(job, _SIZE, np.int64), chunk)

    def multiply_int8(job, chunk):
        if chunk != stamp:
            _multiply_int8(view(job, _SIZE, np.int64), chunk)

    def multiply_int4(job, chunk):
        if chunk != stamp:
            _multiply_int4(view(job, _SIZE, np.int64), chunk)

    def multiply_float32(job, chunk):
        if chunk != stamp:
            _multiply_float32(view(job, _SIZE, np.int64), chunk)

    def multiply_bfloat16(job, chunk):
        if chunk != stamp:
            _multiply_bfloat16(view(job, _SIZE, np.int64), chunk)

    def multiply_float16(job, chunk):
        if chunk != stamp:
            _multiply_float16(view(job, _SIZE, np.int64), chunk)

    def step_float32(job, chunk):
        if chunk != stamp:
            _step_float32(view(job, _J_SIZE, np.int64), chunk)

    def step_bfloat16(job, chunk):
        if chunk != stamp:
            _step_bfloat16(view(job, _J_SIZE, np.int64), chunk)

    def step_float16(job, chunk):
        if chunk != stamp:
            _step_float16(view(job, _J_SIZE, np.int64), chunk)

    def read_memory(job, chunk):
        if chunk != stamp:
            read(view(job, 4, np.int64), chunk)

    preparing = [prepare_numbers, prepare_int8, prepare_int4]
    multiplying = [multiply_int8, multiply_int4, multiply_float32, multiply_bfloat16, multiply_float16]
    stepping = [step_float32, step_bfloat16, step_float16]
    return {one.__name__: one for one in (*preparing, *multiplying, *stepping, read_memory)}


@cache
def kernel(name: str):
    """Return the compiled kernel of a name such as "multiply_int4"; the pool calls it by its `address`."""
    options = {"fastmath": FASTMATH, "error_model": "numpy"}
    written = _kernels(_STAMP)[name]
    compiled: Any = CFunc(written, normalize_signature(_KERNEL), locals={}, options=options)
    with suppress(RuntimeError, OSError):  # neither beside this file nor in the user's cache
        compiled._cache = KernelCache(written)
    compiled.compile()
    return compiled
