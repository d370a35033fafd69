# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# mypy: disable-error-code="assignment"
"""The kernels of `jet.ops.triton.fused_skinny`."""

from __future__ import annotations

import triton
import triton.language as tl

from jet.ops.triton.common import launch_dependents, silu
from jet.ops.triton.jet_step import EPS, _load_state, _softplus, _state_products


@triton.jit
def _wait(PDL: tl.constexpr):
    """Wait until the previous kernels have ended."""
    if PDL:
        tl.extra.cuda.gdc_wait()


# One kernel for all batches up to PADDED rows.
@triton.jit(do_not_specialize=["batch"])
def product_kernel(
    given, weight, out, sums, counters, squares, bias, copied, scale, scaled, squares_after, eps, batch,
    N: tl.constexpr, C: tl.constexpr, PADDED: tl.constexpr, GATED: tl.constexpr,
    ADD: tl.constexpr, ACTIVATED: tl.constexpr, COPIED_FROM: tl.constexpr, COPIED: tl.constexpr,
    HEADS: tl.constexpr, SIZE: tl.constexpr, SHARES: tl.constexpr, SHARES_PADDED: tl.constexpr,
    ROWS: tl.constexpr, CHUNKS: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr,
    STEPS: tl.constexpr, TILES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Multiply tiles of weight rows by one part of the columns, for all rows of the batch.

    The weight is held in registers: it is read before the wait, while the previous kernel ends. In each step,
    each of the warps multiplies one of `CHUNKS` chunks of `COLUMNS` columns. A program runs several tiles
    with the same part of the columns, and loads the next tile before it multiplies the present one.
    """
    launch_dependents(PDL)
    first, stride = tl.program_id(0) // PARTS, tl.num_programs(0) // PARTS
    part = tl.program_id(0) % PARTS
    b = tl.arange(0, PADDED)
    chunk = tl.arange(0, CHUNKS)
    down = chunk[:, None, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :, None]  # of the inputs
    held = _load_tile(weight, first, part, N, C, GATED, ROWS, CHUNKS, COLUMNS, STEPS, TILES)
    _wait(PDL)
    inputs = given + b[None, None, :] * C + down
    read = ()
    for step in tl.static_range(STEPS):
        start = (part * STEPS + step) * (CHUNKS * COLUMNS)
        x = tl.load(inputs + start, mask=(b < batch)[None, None, :] & (start + down < C), other=0.0)
        read = read + (x,)  # noqa: RUF005
    for tile in tl.range(first, TILES, stride, num_stages=1):
        following = _load_tile(weight, tile + stride, part, N, C, GATED, ROWS, CHUNKS, COLUMNS, STEPS, TILES)
        products = tl.zeros([CHUNKS, ROWS, PADDED], tl.float32)
        for step in tl.static_range(STEPS):
            if HEADS > 0:
                head = ((part * STEPS + step) * (CHUNKS * COLUMNS) + chunk * COLUMNS) // SIZE
                divisors = _head_divisors(
                    squares,
                    tl.minimum(head, HEADS - 1),
                    SIZE,
                    eps,
                    batch,
                    HEADS,
                    PADDED,
                    SHARES,
                    SHARES_PADDED,
                )
                products += tl.dot(held[step], read[step]) * divisors[:, None, :]
            else:
                products = tl.dot(held[step], read[step], products)
        product = tl.sum(products, 0)
        _hand_over(product, tile, part, out, sums, counters, squares, bias, copied, scale, scaled,
                   squares_after, eps, batch, N, C, PADDED, GATED, ADD, ACTIVATED, COPIED_FROM, COPIED, HEADS,
                   SHARES, SHARES_PADDED, ROWS, PARTS, TILES)  # fmt: skip
        held = following


@triton.jit
def _load_tile(
    weight, tile, part,
    N: tl.constexpr, C: tl.constexpr, GATED: tl.constexpr, ROWS: tl.constexpr, CHUNKS: tl.constexpr,
    COLUMNS: tl.constexpr, STEPS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Load part of a tile's weight rows as a tuple of `[CHUNKS, ROWS, COLUMNS]`, padded with zeros."""
    MINE: tl.constexpr = ROWS // 2 if GATED else ROWS
    WIDE: tl.constexpr = CHUNKS * COLUMNS
    place = tl.arange(0, ROWS)
    row = tl.minimum(tile * MINE + place % MINE, N - 1)
    if GATED:  # the same rows of gate and up, behind each other
        row += (place // MINE) * N
    across = tl.arange(0, CHUNKS)[:, None, None] * COLUMNS + tl.arange(0, COLUMNS)[None, None, :]
    weights = weight + row.to(tl.int64)[None, :, None] * C + across
    end = tl.minimum((TILES - tile) * C, C)  # nothing of a tile that is none
    tiles = ()
    for step in tl.static_range(STEPS):
        start = (part * STEPS + step) * WIDE
        w = tl.load(weights + start, mask=start + across < end, other=0.0, eviction_policy="evict_first")
        tiles = tiles + (w,)  # noqa: RUF005
    return tiles


@triton.jit
def _hand_over(
    product, tile, part, out, sums, counters, squares, bias, copied, scale, scaled, squares_after, eps, batch,
    N: tl.constexpr, C: tl.constexpr, PADDED: tl.constexpr, GATED: tl.constexpr,
    ADD: tl.constexpr, ACTIVATED: tl.constexpr, COPIED_FROM: tl.constexpr, COPIED: tl.constexpr,
    HEADS: tl.constexpr, SHARES: tl.constexpr, SHARES_PADDED: tl.constexpr, ROWS: tl.constexpr,
    PARTS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Apply the fused operations to a tile's sums and write them.

    If columns are split, only the last program to arrive does so, after adding all parts in order.
    """
    MINE: tl.constexpr = ROWS // 2 if GATED else ROWS
    if PARTS == 1:
        _finish(product, tile, out, squares, bias, copied, scale, scaled, squares_after, eps, batch, N, C,
                PADDED, GATED, ADD, ACTIVATED, COPIED_FROM, COPIED, HEADS, SHARES, SHARES_PADDED, MINE,
                TILES)  # fmt: skip
    else:
        b = tl.arange(0, PADDED)[None, :]
        mine = sums + tile * (PARTS * ROWS * PADDED) + tl.arange(0, ROWS)[:, None] * PADDED + b
        tl.store(mine + part * (ROWS * PADDED), product, mask=b < batch)
        tl.debug_barrier()  # of all threads, before it is said that they are there
        arrived = tl.atomic_add(counters + tile, 1, sem="acq_rel")
        if arrived == PARTS - 1:
            total = tl.zeros([ROWS, PADDED], tl.float32)
            for other in tl.static_range(PARTS):
                total += tl.load(
                    mine + other * (ROWS * PADDED), mask=b < batch, other=0.0, cache_modifier=".cg"
                )
            _finish(total, tile, out, squares, bias, copied, scale, scaled, squares_after, eps, batch, N, C,
                    PADDED, GATED, ADD, ACTIVATED, COPIED_FROM, COPIED, HEADS, SHARES, SHARES_PADDED, MINE,
                    TILES)  # fmt: skip
            tl.store(counters + tile, 0)


@triton.jit
def _head_divisors(
    squares, head, size, eps, batch,
    HEADS: tl.constexpr, PADDED: tl.constexpr, SHARES: tl.constexpr, SHARES_PADDED: tl.constexpr,
):  # fmt: skip
    """Return the reciprocal root mean square of some heads of each row, `[len(head), PADDED]`."""
    b, share = tl.arange(0, PADDED)[None, :, None], tl.arange(0, SHARES_PADDED)[None, None, :]
    place = squares + (b * HEADS + head[:, None, None]) * SHARES + share
    shares = tl.load(place, mask=(b < batch) & (share < SHARES), other=0.0)
    return tl.rsqrt(tl.sum(shares, 2) / size + eps)


@triton.jit
def _divisor(
    squares, stride, size, eps, batch,
    PADDED: tl.constexpr, SHARES: tl.constexpr, SHARES_PADDED: tl.constexpr,
):  # fmt: skip
    """Return the reciprocal root mean square of each row, `[PADDED]`."""
    b, share = tl.arange(0, PADDED), tl.arange(0, SHARES_PADDED)
    inside = (b < batch)[:, None] & (share < SHARES)[None, :]
    shares = tl.load(squares + b[:, None] * stride + share[None, :], mask=inside, other=0.0)
    return tl.rsqrt(tl.sum(shares, 1) / size + eps)


@triton.jit
def _finish(
    product, tile, out, squares, bias, copied, scale, scaled, squares_after, eps, batch,
    N: tl.constexpr, C: tl.constexpr, PADDED: tl.constexpr, GATED: tl.constexpr,
    ADD: tl.constexpr, ACTIVATED: tl.constexpr, COPIED_FROM: tl.constexpr, COPIED: tl.constexpr,
    HEADS: tl.constexpr, SHARES: tl.constexpr, SHARES_PADDED: tl.constexpr, MINE: tl.constexpr,
    TILES: tl.constexpr,
):  # fmt: skip
    """Apply norm, bias, activation or residual to sums `[ROWS, PADDED]`, and write a tile's columns."""
    row = tile * MINE + tl.arange(0, MINE)
    b = tl.arange(0, PADDED)[None, :]
    place = out + b * N + row[:, None]
    inside = (row < N)[:, None] & (b < batch)
    if squares is not None and HEADS == 0:
        product = product * _divisor(squares, SHARES, C, eps, batch, PADDED, SHARES, SHARES_PADDED)[None, :]
    if GATED:
        both = tl.permute(tl.reshape(product, [2, MINE, PADDED]), (1, 2, 0))
        gate, up = tl.split(both)
        product = silu(gate) * up
    if bias is not None:
        product += tl.load(bias + row, mask=row < N, other=0.0).to(tl.float32)[:, None]
    if ACTIVATED > 0:
        product = tl.where((row < ACTIVATED)[:, None], silu(product), product)
    if ADD:
        product += tl.load(place, mask=inside, other=0.0)
        square = tl.where(inside, product * product, 0.0)
        tl.store(squares_after + b * TILES + tile, tl.sum(square, 0)[None, :], mask=b < batch)
        scales = tl.load(scale + row, mask=row < N, other=0.0).to(tl.float32)
        tl.store(
            scaled + b * N + row[:, None],
            (product * scales[:, None]).to(scaled.dtype.element_ty),
            mask=inside,
        )
    if COPIED > 0:
        column = row[:, None] - COPIED_FROM
        target = copied + b * COPIED + column
        tl.store(target, product.to(copied.dtype.element_ty), mask=inside & (column >= 0) & (column < COPIED))
    tl.store(place, product.to(out.dtype.element_ty), mask=inside)


@triton.jit
def embed_kernel(
    token, embedding, position, inv_freq, x, cos, sin, scale, scaled, squares,
    C: tl.constexpr, HALF: tl.constexpr, HALF_PADDED: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Write some hidden channels of one row's embedding; the row's first program also writes its rotation."""
    launch_dependents(PDL)
    block, b = tl.program_id(0), tl.program_id(1)
    column = block * BLOCK + tl.arange(0, BLOCK)
    inside = column < C
    scales = tl.load(scale + column, mask=inside, other=0.0).to(tl.float32)
    _wait(PDL)
    row = tl.load(token + b).to(tl.int64)
    values = tl.load(embedding + row * C + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(x + b * C + column, values, mask=inside)
    tl.store(scaled + b * C + column, (values * scales).to(scaled.dtype.element_ty), mask=inside)
    tl.store(squares + b * tl.num_programs(0) + block, tl.sum(values * values, 0))
    if block == 0:
        pair = tl.arange(0, HALF_PADDED)
        frequency = tl.load(inv_freq + pair, mask=pair < HALF, other=0.0)
        angle = tl.load(position + b).to(tl.float32) * frequency
        for half in tl.static_range(2):
            place = b * 2 * HALF + half * HALF + pair
            tl.store(cos + place, tl.cos(angle), mask=pair < HALF)
            tl.store(sin + place, tl.sin(angle), mask=pair < HALF)


@triton.jit
def jet_step_kernel(
    projected, projected_stride, kernels, kernels_bias, log_decay_rate, dt_bias, slots,
    conv_state, recurrent_state, norm_weight, out, squares, scale,
    HEADS: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr, GENERATOR: tl.constexpr,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Update some value channels of one head of one row; see `jet.ops.triton.jet_step` for the formulas.

    Slots and states are read before the wait, since no earlier kernel of the step writes them.
    """
    launch_dependents(PDL)
    TILES: tl.constexpr = (KEY + KEYS - 1) // KEYS
    head, b = tl.program_id(1), tl.program_id(2).to(tl.int64)
    column = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mine = column < VALUE
    channel = head * VALUE + tl.minimum(column, VALUE - 1)
    slot = tl.load(slots + b).to(tl.int64)
    state = recurrent_state + (slot * HEADS + head) * (KEY * VALUE) + column
    states = _load_state(state, mine, KEY, VALUE, KEYS)
    memory = conv_state + (slot * (HEADS * VALUE) + channel) * WIDTH
    rate = tl.exp(tl.load(log_decay_rate + head).to(tl.float32))
    dt = tl.load(dt_bias + head).to(tl.float32)
    norm = tl.load(norm_weight + column, mask=mine, other=0.0).to(tl.float32)
    window = ()
    biases = ()
    for w in tl.static_range(WIDTH):
        if w < WIDTH - 1:
            window = window + (tl.load(memory + w + 1),)  # noqa: RUF005
        biases = biases + (tl.load(kernels_bias + channel * WIDTH + w).to(tl.float32),)  # noqa: RUF005
    _wait(PDL)

    # q | k | w1 | v | g | a | b, the first three activated
    query = projected + b * projected_stride
    value = query + 2 * HEADS * KEY + GENERATOR
    gates = value + 2 * HEADS * VALUE + head
    gate = silu(tl.load(value + HEADS * VALUE + channel))
    newest = tl.load(value + channel).to(conv_state.dtype.element_ty)  # counts as it will be remembered
    window = window + (newest,)  # noqa: RUF005
    queries = ()
    keys = ()
    for t in tl.static_range(TILES):
        row = t * KEYS + tl.arange(0, KEYS)
        inside = row < KEY
        queries = queries + (tl.load(query + head * KEY + row, mask=inside, other=0.0),)  # noqa: RUF005
        keys = keys + (tl.load(query + (HEADS + head) * KEY + row, mask=inside, other=0.0),)  # noqa: RUF005
    decay = tl.exp(-rate * _softplus(tl.load(gates) + dt))
    beta = 1.0 / (1.0 + tl.exp(-tl.load(gates + HEADS)))
    taps = kernels + b * (HEADS * VALUE * WIDTH) + channel * WIDTH
    convolved = tl.zeros([ROWS], tl.float32)
    for w in tl.static_range(WIDTH):
        convolved += window[w].to(tl.float32) * (tl.load(taps + w) + biases[w])

    recalled, answered, kk, qq, kq = _state_products(states, keys, queries, ROWS, TILES, KEYS)
    k_scale = tl.rsqrt(kk + EPS)
    error = beta * (silu(convolved) - decay * k_scale * recalled)
    result = tl.rsqrt(qq + EPS) * scale * (decay * answered + k_scale * kq * error)

    # A thread may hold a copy of what another one writes: all have read before the first writes.
    tl.debug_barrier()
    tl.store(out + b * (HEADS * VALUE) + channel, (result * norm * gate).to(out.dtype.element_ty), mask=mine)
    share = (b * HEADS + head) * tl.num_programs(0) + tl.program_id(0)
    tl.store(squares + share, tl.sum(tl.where(mine, result * result, 0.0), 0))
    for w in tl.static_range(WIDTH):
        tl.store(memory + w, window[w], mask=mine)
    for t in tl.static_range(TILES):
        row = (t * KEYS + tl.arange(0, KEYS))[:, None]
        new = decay * states[t] + (k_scale * keys[t])[:, None] * error[None, :]
        tl.store(state[None, :] + row * VALUE, new, mask=(row < KEY) & mine[None, :])
