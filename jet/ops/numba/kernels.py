# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""Decode kernels compiled by numba: loops over numpy arrays.

All kernels are in one file, because numba's cache notices changes only in the file of a kernel, not in the
files of functions that the kernel calls.

Weights and states are float32, or half precision stored as integers: bfloat16 as uint16, float16 as int16.
They are converted to float32 when they are read; sums and activations are float32. Activations are
C-contiguous, with one row for each sequence. A quantized weight is a tuple of quantized values and scales, as
in `jet.ops.quantization`; the type of the values (int8 or uint8) tells the scheme.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import overload

from jet.ops import gated_delta_rule
from jet.ops.numba.kernel_cache import KernelCache

# Sums may be taken in vector lanes, but infinities and NaN stay what they are.
FASTMATH = {"reassoc", "contract", "arcp", "nsz"}

# Kernels are called from Python; the functions become part of them.
inlined = numba.njit(fastmath=FASTMATH, error_model="numpy")
# With the roundings that stand in the code. Said aloud, for what is not said is taken from the caller.
exact = numba.njit(fastmath=False, error_model="numpy")
# The same, but that a product and a sum may be rounded once.
contracted = numba.njit(fastmath={"contract"}, error_model="numpy")


def kernel(compiled):
    """Wrap a function for compilation by numba, so that Python code can call it.

    The function is compiled at the first call for each combination of argument types, and runs without
    Python's lock. The machine code is cached on disk if this process can write there.
    """
    options: dict[str, Any] = {"fastmath": FASTMATH, "error_model": "numpy", "nogil": True}
    dispatcher = numba.njit(**options)(compiled)
    with suppress(RuntimeError, OSError):  # neither beside this file nor in the user's cache
        dispatcher._cache = KernelCache(compiled)
    return dispatcher


ZERO, ONE, EIGHT = np.float32(0.0), np.float32(1.0), np.float32(8.0)
LOG2_E = np.float32(math.log2(math.e))
# ln 2 in two parts; the first has so few digits that its product with an exponent is exact.
LN2_HIGH = np.float32(0.693359375)
LN2_LOW = np.float32(math.log(2.0) - 0.693359375)
# Added to a small number it leaves no digits after the point: the last bits are then the nearest integer.
ROUNDER = np.float32(1.5 * 2.0**23)
# Where exp and its power of two are still normal numbers.
EXP_LOWEST, EXP_HIGHEST = np.float32(-87.0), np.float32(88.0)
TAYLOR = tuple(np.float32(1.0 / math.factorial(n)) for n in range(8))
DELTA_EPS = np.float32(gated_delta_rule.EPS)
GROUP_SIZE = 64  # as in `jet.ops.quantization`, where the cache on disk would not notice a change


# --- numbers ---------------------------------------------------------------------------------------------


@exact
def to_bits(number):
    """Return the bits of a float32."""
    return np.float32(number).view(np.uint32)


@exact
def from_bits(bits):
    """Return the float32 with these bits."""
    return np.uint32(bits).view(np.float32)


@contracted
def exp(x):
    """Return e**x with a relative error below 2e-7, for x clamped to -87 … 88.

    Calls no library function, so that loops vectorize.
    """
    x = EXP_LOWEST if x < EXP_LOWEST else x  # written so that NaN stays
    x = EXP_HIGHEST if x > EXP_HIGHEST else x
    shifted = x * LOG2_E + ROUNDER
    power = shifted - ROUNDER
    rest = x - power * LN2_HIGH - power * LN2_LOW  # at most half of ln 2
    series = TAYLOR[7] * rest + TAYLOR[6]
    series = series * rest + TAYLOR[5]
    series = series * rest + TAYLOR[4]
    series = series * rest + TAYLOR[3]
    series = series * rest + TAYLOR[2]
    series = series * rest + TAYLOR[1]
    series = series * rest + TAYLOR[0]
    return series * from_bits((to_bits(shifted) << np.uint32(23)) + to_bits(ONE))


@inlined
def silu(x):
    """Return `x * sigmoid(x)`."""
    return x / (ONE + exp(-x))


def widen(number):
    """Convert a stored number, such as bfloat16 bits in uint16, to float32."""
    raise NotImplementedError


def narrow(number, array):
    """Convert a float32 number to the stored type of `array`, rounded to nearest, ties to even."""
    raise NotImplementedError


@overload(widen)
def _choose_widen(number):
    chosen = {types.uint16: _widen_bfloat16, types.int16: _widen_float16, types.float32: _identity}[number]
    return lambda number: chosen(number)


@overload(narrow)
def _choose_narrow(number, array):
    choices = {types.uint16: _narrow_bfloat16, types.int16: _narrow_float16, types.float32: _identity}
    chosen = choices[array.dtype]
    return lambda number, array: chosen(number)


@exact
def _identity(number):
    return number


@exact
def _widen_bfloat16(stored):
    return from_bits(np.uint32(stored) << np.uint32(16))


@exact
def _narrow_bfloat16(number):
    if number != number:
        return np.uint16(0x7FC0)
    bits = to_bits(number)
    half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return np.uint16((bits + half) >> np.uint32(16))


@exact
def _widen_float16(stored):
    bits = np.uint32(np.uint16(stored))
    # In float32's place the exponent is 112 too small, also for what is below the normal numbers.
    size = to_bits(from_bits((bits & np.uint32(0x7FFF)) << np.uint32(13)) * np.float32(2.0**112))
    if (bits & np.uint32(0x7C00)) == np.uint32(0x7C00):
        size |= np.uint32(0x7F800000)  # infinity or NaN
    return from_bits(size | ((bits & np.uint32(0x8000)) << np.uint32(16)))


@exact
def _narrow_float16(number):
    sign, size = to_bits(number) & np.uint32(0x80000000), to_bits(abs(number))
    if number != number:
        half = np.uint32(0x7E00)
    elif size >= np.uint32(0x477FF000):  # 65,520: nearer to infinity than to the largest number
        half = np.uint32(0x7C00)
    elif size < np.uint32(0x38800000):  # below the normal numbers: a half has the wanted last place
        half = to_bits(abs(number) + np.float32(0.5)) - to_bits(np.float32(0.5))
    else:
        odd = (size >> np.uint32(13)) & np.uint32(1)
        half = (size + np.uint32(0xFFF) + odd - np.uint32(112 << 23)) >> np.uint32(13)
    return np.int16(np.uint16(half | (sign >> np.uint32(16))))


# --- products --------------------------------------------------------------------------------------------


def dot(matrix, row, x):
    """Return `matrix[row] @ x`."""
    raise NotImplementedError


def dot4(matrix, row, x, b):
    """Return `matrix[row] @ x[i]` for the four rows i of x from b on, each rounded as by `dot`."""
    raise NotImplementedError


def read_row(matrix, row, out):
    """Write `matrix[row]` in float32 to `out`."""
    raise NotImplementedError


def _kind(matrix: Any) -> int:
    """Return the index of a weight type: 0 dense, 1 int8, 2 int4, 3 int8 in blocks."""
    if isinstance(matrix, types.Array):
        return 0
    if matrix[0].ndim == 4:
        return 3
    return 1 if matrix[0].dtype == types.int8 else 2


@overload(dot)
def _choose_dot(matrix, row, x):
    chosen = (_dot, _dot_int8, _dot_int4)[_kind(matrix)]
    return lambda matrix, row, x: chosen(matrix, row, x)


@overload(dot4)
def _choose_dot4(matrix, row, x, b):
    chosen = (_dot4, _dot4_int8, _dot4_int4)[_kind(matrix)]
    return lambda matrix, row, x, b: chosen(matrix, row, x, b)


@overload(read_row)
def _choose_read_row(matrix, row, out):
    chosen = (_read_row, _read_row_int8, _read_row_int4, _read_row_blocked)[_kind(matrix)]
    return lambda matrix, row, out: chosen(matrix, row, out)


@inlined
def _dot(matrix, row, x):
    total = ZERO
    for j in range(matrix.shape[1]):
        total += widen(matrix[row, j]) * x[j]
    return total


@inlined
def _dot_int8(matrix, row, x):
    qweight, scales = matrix
    total = ZERO
    for j in range(qweight.shape[1]):
        total += np.float32(qweight[row, j]) * x[j]
    return total * scales[row]


@inlined
def _dot_int4(matrix, row, x):
    qweight, scales = matrix
    row_bytes, groups = qweight.shape[1], scales.shape[1] // 2
    both, total = x.shape[0] - row_bytes, ZERO
    for group in range(groups):
        start, low, high = group * GROUP_SIZE, ZERO, ZERO
        # Unsigned, for what may be negative counts from the end, and such loops do not vectorize.
        for j in range(start, min(start + GROUP_SIZE, row_bytes)):
            low += low_nibble(qweight[row, np.uint64(j)]) * x[np.uint64(j)]
        for j in range(start, min(start + GROUP_SIZE, both)):
            high += high_nibble(qweight[row, np.uint64(j)]) * x[np.uint64(row_bytes + j)]
        total += low * widen(scales[row, group]) + high * widen(scales[row, groups + group])
    return total


@inlined
def low_nibble(code):
    """Return the number in the low four bits of an int4 byte."""
    return np.float32(np.int32(code & np.uint8(15))) - EIGHT


@inlined
def high_nibble(code):
    """Return the number in the high four bits of an int4 byte."""
    return np.float32(np.int32(code >> np.uint8(4))) - EIGHT


@inlined
def _dot4_int8(matrix, row, x, b):
    qweight, scales = matrix
    first, second, third, fourth = ZERO, ZERO, ZERO, ZERO
    for j in range(qweight.shape[1]):
        weight = np.float32(qweight[row, j])
        first += weight * x[b, j]
        second += weight * x[b + 1, j]
        third += weight * x[b + 2, j]
        fourth += weight * x[b + 3, j]
    scale = scales[row]
    return first * scale, second * scale, third * scale, fourth * scale


@inlined
def _dot4_int4(matrix, row, x, b):
    first, second = _dot_int4(matrix, row, x[b]), _dot_int4(matrix, row, x[b + 1])
    return first, second, _dot_int4(matrix, row, x[b + 2]), _dot_int4(matrix, row, x[b + 3])


@inlined
def _read_row(matrix, row, out):
    for j in range(out.shape[0]):
        out[j] = widen(matrix[row, j])


@inlined
def _read_row_int8(matrix, row, out):
    qweight, scales = matrix
    for j in range(out.shape[0]):
        out[j] = np.float32(qweight[row, j]) * scales[row]


@inlined
def _read_row_int4(matrix, row, out):
    qweight, scales = matrix
    row_bytes, groups = qweight.shape[1], scales.shape[1] // 2
    for j in range(row_bytes):
        out[j] = low_nibble(qweight[row, j]) * widen(scales[row, j // GROUP_SIZE])
    for j in range(out.shape[0] - row_bytes):
        out[row_bytes + j] = high_nibble(qweight[row, j]) * widen(scales[row, groups + j // GROUP_SIZE])


@inlined
def _read_row_blocked(matrix, row, out):
    qweight, scales = matrix  # int8, see jet.ops.blocked
    for j in range(out.shape[0]):
        out[j] = np.float32(qweight[row // 16, j // 4, row % 16, j % 4]) * scales[row]


@inlined
def _dot4(matrix, row, x, b):
    first, second, third, fourth = ZERO, ZERO, ZERO, ZERO
    for j in range(matrix.shape[1]):
        weight = widen(matrix[row, j])
        first += weight * x[b, j]
        second += weight * x[b + 1, j]
        third += weight * x[b + 2, j]
        fourth += weight * x[b + 3, j]
    return first, second, third, fourth


@inlined
def rms_norm(x, scale, eps, out):
    """Compute `out = x / rms(x) * scale`, all `[C]`."""
    squares = ZERO
    for j in range(x.shape[0]):
        squares += x[j] * x[j]
    factor = ONE / np.sqrt(squares / np.float32(x.shape[0]) + np.float32(eps))
    for j in range(x.shape[0]):
        out[j] = x[j] * factor * scale[j]


@inlined
def rms_norm_rows(x, scale, eps):
    """Return `rms_norm` of every row of x `[B, C]`."""
    normed = np.empty_like(x)
    for b in range(x.shape[0]):
        rms_norm(x[b], scale, eps, normed[b])
    return normed


@kernel
def norm_linear(x, scale, eps, weight, bias, out):
    """Compute `out = rms_norm(x) @ weight.T + bias`; an empty bias stands for none."""
    normed, batch_of_four = rms_norm_rows(x, scale, eps), x.shape[0] - x.shape[0] % 4
    biased = bias.shape[0] > 0
    for r in range(out.shape[1]):
        added = bias[r] if biased else ZERO
        for b in range(0, batch_of_four, 4):
            first, second, third, fourth = dot4(weight, r, normed, b)
            out[b, r], out[b + 1, r] = first + added, second + added
            out[b + 2, r], out[b + 3, r] = third + added, fourth + added
        for b in range(batch_of_four, x.shape[0]):
            out[b, r] = dot(weight, r, normed[b]) + added


@kernel
def norm_swiglu(x, scale, eps, gate_up, out):
    """Compute `out = silu(g) * u` for `g | u = rms_norm(x) @ gate_up.T`."""
    normed = rms_norm_rows(x, scale, eps)
    batch, size = out.shape
    batch_of_four = batch - batch % 4
    for r in range(size):
        for b in range(0, batch_of_four, 4):
            gates, ups = dot4(gate_up, r, normed, b), dot4(gate_up, size + r, normed, b)
            out[b, r], out[b + 1, r] = silu(gates[0]) * ups[0], silu(gates[1]) * ups[1]
            out[b + 2, r], out[b + 3, r] = silu(gates[2]) * ups[2], silu(gates[3]) * ups[3]
        for b in range(batch_of_four, batch):
            out[b, r] = silu(dot(gate_up, r, normed[b])) * dot(gate_up, size + r, normed[b])


@kernel
def linear_add(h, weight, x):
    """Compute `x += h @ weight.T`."""
    batch_of_four = x.shape[0] - x.shape[0] % 4
    for r in range(x.shape[1]):
        for b in range(0, batch_of_four, 4):
            first, second, third, fourth = dot4(weight, r, h, b)
            x[b, r] += first
            x[b + 1, r] += second
            x[b + 2, r] += third
            x[b + 3, r] += fourth
        for b in range(batch_of_four, x.shape[0]):
            x[b, r] += dot(weight, r, h[b])


@kernel
def gated_norm_linear_add(o, gate, gate_stride, scale, eps, weight, x):
    """Compute `x += (rms_norm(o) * silu(gate)) @ weight.T`, with the norm per head.

    `gate` is a flat array, whose rows begin `gate_stride` elements apart.
    """
    size = scale.shape[0]
    gated = np.empty_like(o)
    for b in range(o.shape[0]):
        for start in range(0, o.shape[1], size):
            rms_norm(o[b, start : start + size], scale, eps, gated[b, start : start + size])
        for j in range(o.shape[1]):
            gated[b, j] *= silu(gate[b * gate_stride + j])
    linear_add(gated, weight, x)


@kernel
def embed(token, embedding, position, inv_freq, x, cos, sin):
    """Write the embeddings of tokens to x `[B, C]`, and the rotation of each position to cos and sin."""
    half = inv_freq.shape[0]
    for b in range(x.shape[0]):
        read_row(embedding, token[b], x[b])
        for j in range(half):
            angle = np.float32(position[b]) * inv_freq[j]
            cos[b, j] = cos[b, half + j] = math.cos(angle)
            sin[b, j] = sin[b, half + j] = math.sin(angle)


# --- JetBlock --------------------------------------------------------------------------------------------


@kernel
def jet_step(
    projected,
    kernels_weight,
    kernels_bias,
    log_decay_rate,
    dt_bias,
    slots,
    conv_state,
    recurrent_state,
    out,
    generator,
):
    """Advance the state of every row by one token; `projected` is q | k | w1 | v | g | a | b."""
    heads, size, value = recurrent_state.shape[1:]
    keys, values = heads * size, heads * value
    hidden, v = np.empty(generator, np.float32), np.empty(values, np.float32)
    for row in range(projected.shape[0]):
        q, k, w1 = projected[row], projected[row, keys:], projected[row, 2 * keys :]
        inputs, slot = w1[generator:], slots[row]
        a, b = inputs[2 * values :], inputs[2 * values + heads :]
        for j in range(generator):
            hidden[j] = silu(w1[j])
        convolve(inputs, hidden, kernels_weight, kernels_bias, conv_state[slot], v)
        for h in range(heads):
            query = normalized_silu(q[h * size : (h + 1) * size], size**-0.5)
            key = normalized_silu(k[h * size : (h + 1) * size], 1.0)
            decay = math.exp(-math.exp(log_decay_rate[h]) * softplus(a[h] + dt_bias[h]))
            beta = 1.0 / (1.0 + math.exp(-b[h]))
            part = slice(h * value, (h + 1) * value)
            delta_rule(query, key, v[part], decay, beta, recurrent_state[slot, h], out[row, part])


@inlined
def convolve(inputs, hidden, weight, bias, state, out):
    """Shift the inputs `[channels]` into `state` `[channels, W]`, convolve it and apply SiLU.

    Each channel's kernel is generated from `hidden` by weight and bias.
    """
    channels, width = state.shape
    for c in range(channels):
        total = ZERO
        for w in range(width):
            state[c, w] = state[c, w + 1] if w < width - 1 else narrow(inputs[c], state)
            tap = c * width + w
            total += widen(state[c, w]) * (dot(weight, tap, hidden) + bias[tap])
        out[c] = total
    for c in range(channels):
        out[c] = silu(out[c])


@inlined
def normalized_silu(x, factor):
    """Return `silu(x)` `[K]`, scaled to the length `factor`."""
    out, squares = np.empty_like(x), ZERO
    for j in range(x.shape[0]):
        out[j] = silu(x[j])
        squares += out[j] * out[j]
    scale = np.float32(factor) / np.sqrt(squares + DELTA_EPS)
    for j in range(x.shape[0]):
        out[j] *= scale
    return out


@exact
def softplus(x):
    """Return `log(1 + exp(x))`."""
    return x if x > 20.0 else math.log1p(math.exp(x))


@inlined
def delta_rule(query, key, v, decay, beta, state, out):
    """Apply the gated delta rule to one head: update `state` `[K, V]` and write the output `[V]`.

    One pass over the old state computes its products with key and query; the update then finds the state in
    the CPU's cache. The output is `decay` times the product with the query, plus `key · query` times the
    correction.
    """
    decay, beta, key_query = np.float32(decay), np.float32(beta), ZERO
    state_key, state_query = np.zeros(v.shape[0], np.float32), np.zeros(v.shape[0], np.float32)
    for i in range(state.shape[0]):
        k, q = key[i], query[i]  # outside of the loop, which else must fear that it writes them
        key_query += k * q
        for j in range(v.shape[0]):
            state_key[j] += k * state[i, j]
            state_query[j] += q * state[i, j]
    correction = state_key
    for j in range(v.shape[0]):
        correction[j] = beta * (v[j] - decay * state_key[j])
        out[j] = decay * state_query[j] + key_query * correction[j]
    for i in range(state.shape[0]):
        k = key[i]
        for j in range(v.shape[0]):
            state[i, j] = decay * state[i, j] + k * correction[j]


# --- attention -------------------------------------------------------------------------------------------


@kernel
def attend(projected, cos, sin, position, slots, page_table, keys, values, kv_heads, page, stride, out):
    """Attend from one token per row to keys and values in pages or rings, and write the token's own.

    A ring is treated as a slot's only page, as long as the window. Token c of head h in page p is row
    `p * stride + h * page + c` of `keys` and `values` `[rows, D]`.
    """
    dim = cos.shape[1]
    group = out.shape[1] // (kv_heads * dim)
    capacity = page_table.shape[1] * page
    queries = np.empty((group, dim), np.float32)
    for b in range(out.shape[0]):
        heads, outputs = projected[b].reshape((-1, dim)), out[b].reshape((-1, dim))
        pages = page_table[slots[b]]
        newest, num_visible = position[b] % capacity, min(position[b] + 1, capacity)
        scores = np.empty((group, num_visible), np.float32)
        for h in range(kv_heads):
            first, new = h * group, (kv_heads * group + h)
            place = pages[newest // page] * stride + h * page + newest % page
            rotate(heads[new], cos[b], sin[b], queries[0])
            for d in range(dim):
                keys[place, d] = narrow(queries[0, d], keys)
                values[place, d] = narrow(heads[new + kv_heads, d], values)
            for g in range(group):
                rotate(heads[first + g], cos[b], sin[b], queries[g])
            attention_weights(queries, keys, pages, h * page, page, stride, scores)
            weighted_values(scores, values, pages, h * page, page, stride, outputs[first : first + group])


@exact
def rotate(x, cos, sin, out):
    """Write x `[D]` to `out` with each pair of elements d and d + D / 2 rotated by its angle."""
    half = x.shape[0] // 2
    for d in range(half):
        first, second = x[d], x[half + d]
        out[d] = first * cos[d] - second * sin[d]
        out[half + d] = second * cos[half + d] + first * sin[half + d]


@inlined
def attention_weights(queries, keys, pages, offset, page, stride, scores):
    """Write the softmax of each query's scaled products with the keys to `scores` `[G, tokens]`."""
    group, num_visible = scores.shape
    factor = np.float32(queries.shape[1] ** -0.5)
    highest = np.full(group, -np.inf, np.float32)
    for start in range(0, num_visible, page):
        row = pages[start // page] * stride + offset
        for cell in range(min(page, num_visible - start)):
            for g in range(group):
                score = dot(keys, row + cell, queries[g]) * factor
                scores[g, start + cell] = score
                highest[g] = score if score > highest[g] else highest[g]
    for g in range(group):
        total = ZERO
        for cell in range(num_visible):
            scores[g, cell] = exp(scores[g, cell] - highest[g])
            total += scores[g, cell]
        for cell in range(num_visible):
            scores[g, cell] /= total


@inlined
def weighted_values(scores, values, pages, offset, page, stride, out):
    """Write the sum of values weighted by `scores` `[G, tokens]` to `out` `[G, D]`."""
    group, num_visible = scores.shape
    out[:] = ZERO
    for start in range(0, num_visible, page):
        row = pages[start // page] * stride + offset
        for cell in range(min(page, num_visible - start)):
            for g in range(group):
                score = scores[g, start + cell]
                for d in range(out.shape[1]):
                    out[g, d] += score * widen(values[row + cell, d])
