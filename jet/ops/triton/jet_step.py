# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# mypy: disable-error-code="assignment"
"""One token through a JetBlock's memory: kernel generator, dynamic convolution, gated delta rule.

A program owns some value channels of one head of one row: their kernels, their convolution inputs and their
columns of the recurrent state, which nobody else reads or writes. With S' = decay · S, one pass over the old
state is enough, because the sums with the key and the query do not depend on the value:

    error = beta · (v − S'ᵀk)
    o = (S' + k errorᵀ)ᵀ q = S'ᵀq + (k·q) error

In the same way the convolution's sum over the taps is taken inside the generator's sum over its hidden
channels, so that a channel costs one reduction instead of one a tap.

What several programs would compute again and again is computed once: the projection before activates what
all channels read, and this kernel writes its result gated and scaled, beside its share of each head's
squares, so that the product behind it has no norm to take but its divisor.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from jet.ops import gated_delta_rule
from jet.ops.quantization import Weight
from jet.ops.reference import JetSizes
from jet.ops.triton.common import add_pairs, chain_options, launch_next, load_vector, silu, wait
from jet.ops.triton.gemv_config import Tiling, tiling_of
from jet.ops.triton.weight_tiles import (
    by_row,
    held,
    load_factors,
    load_rows,
    no_products,
    numbers,
    products_of_int4,
)
from jet.ops.triton.weight_tiles import sizes as sizes_of

EPS = tl.constexpr(gated_delta_rule.EPS)
MAX_KEYS = 64  # rows of the state in a tile


def jet_step(
    projected: Tensor,
    kernels_weight: Weight,
    kernels_bias: Tensor,
    log_decay_rate: Tensor,
    dt_bias: Tensor,
    slots: Tensor,
    conv_state: Tensor,
    recurrent_state: Tensor,
    norm_weight: Tensor,
    out: Tensor,
    squares: Tensor,
    sizes: JetSizes,
    pdl: bool = False,
    tiling: Tiling | None = None,
    ahead: Tensor | None = None,
    early: bool = False,
) -> None:
    """Twin of `jet_step_reference` with half of the gated norm that follows it; other arguments as there.

    In `projected`, q, k and w1 are already activated (`activated`). `out` gets the result times `norm_weight`
    `[V]` and the activated gate; `squares` `[B, H, S]` float32 its own squares, in `shares` sums a head.

    `early` reads slots and states before waiting for the kernels before: allowed where no kernel of the same
    chain of dependent launches writes them, as when each graph replay is one step.
    """
    sizes.check(projected, kernels_weight, conv_state, recurrent_state, out)
    tiling = tiling or _tiling(sizes, kernels_weight)
    blocks = triton.cdiv(sizes.head_v_dim, tiling.rows)
    if squares.shape != (projected.shape[0], sizes.num_heads, blocks) or not squares.is_contiguous():
        raise ValueError(f"squares {list(squares.shape)} should be {blocks} for each head of each row.")
    cut = sizes_of(kernels_weight)
    columns = min(tiling.columns, triton.next_power_of_2(cut["SPAN"]))
    # Rows of a batch are neighbours in the grid: those after the first find the generator's weights in cache.
    _jet_step[(projected.shape[0], blocks, sizes.num_heads)](
        projected,
        *held(kernels_weight),
        kernels_bias,
        log_decay_rate,
        dt_bias,
        slots,
        conv_state,
        recurrent_state,
        norm_weight,
        out,
        squares,
        sizes.head_k_dim**-0.5,
        HEADS=sizes.num_heads,
        KEY=sizes.head_k_dim,
        VALUE=sizes.head_v_dim,
        GENERATOR=sizes.generator_dim,
        WIDTH=sizes.conv_size,
        ROWS=tiling.rows,
        COLUMNS=max(columns, cut["SHARED"]),
        **cut,
        KEYS=_keys_in_a_tile(sizes.head_k_dim),
        EARLY=early,
        **chain_options(tiling.warps, pdl, ahead),
    )


def activated(sizes: JetSizes) -> int:
    """How many of the projection's first channels, q, k and w1, `jet_step` wants activated."""
    return sum(sizes.split_sizes[:3])


def shares(sizes: JetSizes, weight: Weight, tiling: Tiling | None = None) -> int:
    """In how many sums a head's squares come, for the kernel generator's second `weight`."""
    return -(-sizes.head_v_dim // (tiling or _tiling(sizes, weight)).rows)


def _tiling(sizes: JetSizes, weight: Weight) -> Tiling:
    return tiling_of("jet_step", sizes.num_heads * sizes.head_v_dim, weight)


def _keys_in_a_tile(key: int) -> int:
    """A power of two that divides the number of keys, if a large one does: no lane is then without work."""
    divisor = key & -key
    return min(divisor, MAX_KEYS) if divisor >= 16 else min(int(triton.next_power_of_2(key)), 32)


@triton.jit
def _add_triples(a, b, c, d, e, f):
    return a + d, b + e, c + f


@triton.jit
def _softplus(x):
    """`log(1 + exp(x))` to float32's last digits; the fast logarithm has no relative precision near 1."""
    small = tl.exp(-tl.abs(x))
    s = small / (2.0 + small)  # log(1 + small) = 2 artanh(s), and s is at most 1/3
    square = s * s
    series = 1.0 / 17.0
    for n in tl.static_range(8):
        series = series * square + 1.0 / (15 - 2 * n)
    return tl.maximum(x, 0.0) + 2.0 * s * series


@triton.jit
def _load_generator(
    weight,
    factors,
    bias,
    channel,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    SPAN: tl.constexpr,
    HALVES: tl.constexpr,
    SHARED: tl.constexpr,
):
    """Tap by tap, of the channels `[ROWS]`: rows in tiles `[ROWS, COLUMNS]`, factors, biases `[ROWS]`."""
    weights = ()
    shares = ()
    biases = ()
    for w in tl.static_range(WIDTH):
        row = channel * WIDTH + w
        weights = weights + load_rows(weight, row, SPAN, COLUMNS)
        shares = shares + load_factors(factors, row, SPAN, HALVES, SHARED, COLUMNS)
        biases = biases + (tl.load(bias + row).to(tl.float32),)  # noqa: RUF005
    return weights, shares, biases


@triton.jit
def _load_state(state, mine, KEY: tl.constexpr, VALUE: tl.constexpr, KEYS: tl.constexpr):
    """Columns of a state, from pointers to their first row `[ROWS]`, as tiles `[KEYS, ROWS]`."""
    tiles = ()
    for t in tl.static_range((KEY + KEYS - 1) // KEYS):
        row = (t * KEYS + tl.arange(0, KEYS))[:, None]
        tile = tl.load(state[None, :] + row * VALUE, mask=(row < KEY) & mine[None, :], other=0.0)
        tiles = tiles + (tile,)  # noqa: RUF005
    return tiles


@triton.jit
def _convolve(
    weights,
    shares,
    biases,
    window,
    hidden,
    ROWS: tl.constexpr,
    GENERATOR: tl.constexpr,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    SPAN: tl.constexpr,
    HALVES: tl.constexpr,
    SHARED: tl.constexpr,
):
    """The window `[ROWS]`, tap by tap, weighed by the kernels that the hidden channels give: `[ROWS]`."""
    TILES: tl.constexpr = (SPAN + COLUMNS - 1) // COLUMNS
    products = no_products(ROWS, COLUMNS, SHARED)
    for i in tl.static_range(HALVES * TILES):
        # In the shape of the weights, so that every thread loads what it multiplies.
        place = (i % TILES) * COLUMNS + tl.arange(0, COLUMNS)[None, :] + tl.zeros([ROWS, 1], tl.int32)
        column = (i // TILES) * SPAN + place
        inputs = tl.load(hidden + column, mask=(place < SPAN) & (column < GENERATOR), other=0.0)
        if SHARED > 0:
            for w in tl.static_range(WIDTH):
                tile = weights[w * TILES + i % TILES]
                tap = products_of_int4(tile, inputs, shares, w * HALVES * TILES + i, i // TILES)
                products += tap * window[w].to(tl.float32)[:, None]
        else:
            mixed = tl.zeros([ROWS, COLUMNS], tl.float32)
            for w in tl.static_range(WIDTH):
                weighed = by_row(window[w].to(tl.float32), weights[0], shares[w])
                mixed += numbers(weights[w * TILES + i], 0) * weighed[:, None]
            products += mixed * inputs
    convolved = tl.sum(products, 1)
    for w in tl.static_range(WIDTH):
        convolved += biases[w] * window[w].to(tl.float32)
    return convolved


@triton.jit
def _recall(states, keys, queries, ROWS: tl.constexpr, TILES: tl.constexpr, KEYS: tl.constexpr):
    """What the old state holds for the key and for the query, `[ROWS]` each; and k·k, q·q, k·q."""
    with_key = tl.zeros([KEYS, ROWS], tl.float32)
    with_query = tl.zeros([KEYS, ROWS], tl.float32)
    kk = tl.zeros([KEYS], tl.float32)
    qq = tl.zeros([KEYS], tl.float32)
    kq = tl.zeros([KEYS], tl.float32)
    for t in tl.static_range(TILES):
        with_key += keys[t][:, None] * states[t]
        with_query += queries[t][:, None] * states[t]
        kk += keys[t] * keys[t]
        qq += queries[t] * queries[t]
        kq += keys[t] * queries[t]
    recalled, answered = tl.reduce((with_key, with_query), 0, add_pairs)
    kk, qq, kq = tl.reduce((kk, qq, kq), 0, _add_triples)
    return recalled, answered, kk, qq, kq


@triton.jit
def _jet_step(
    projected,
    kernels_weight,
    kernels_factors,
    kernels_bias,
    log_decay_rate,
    dt_bias,
    slots,
    conv_state,
    recurrent_state,
    norm_weight,
    out,
    squares,
    scale,
    HEADS: tl.constexpr,
    KEY: tl.constexpr,
    VALUE: tl.constexpr,
    GENERATOR: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SPAN: tl.constexpr,
    HALVES: tl.constexpr,
    SHARED: tl.constexpr,
    KEYS: tl.constexpr,
    EARLY: tl.constexpr,
    ahead,
    ahead_bytes,
    PDL: tl.constexpr,
):
    launch_next(PDL)
    TILES: tl.constexpr = (KEY + KEYS - 1) // KEYS
    b = tl.program_id(0)
    head = tl.program_id(2)
    column = tl.program_id(1) * ROWS + tl.arange(0, ROWS)  # of the head's state
    mine = column < VALUE
    channel = head * VALUE + tl.minimum(column, VALUE - 1)
    weights, shares, biases = _load_generator(
        kernels_weight, kernels_factors, kernels_bias, channel, WIDTH, COLUMNS, SPAN, HALVES, SHARED
    )
    rate = tl.exp(tl.load(log_decay_rate + head).to(tl.float32))
    dt = tl.load(dt_bias + head).to(tl.float32)
    norm = tl.load(norm_weight + column, mask=mine, other=0.0).to(tl.float32)

    rows, blocks, heads = tl.num_programs(0), tl.num_programs(1), tl.num_programs(2)
    program = (head * blocks + tl.program_id(1)) * rows + b
    if not EARLY:
        wait(program, rows * blocks * heads, ahead, ahead_bytes, PDL)
    slot = tl.load(slots + b).to(tl.int64)
    state = recurrent_state + (slot * HEADS + head) * (KEY * VALUE) + column
    states = _load_state(state, mine, KEY, VALUE, KEYS)
    memory = conv_state + (slot * (HEADS * VALUE) + channel) * WIDTH
    window = ()
    for w in tl.static_range(WIDTH - 1):
        window = window + (tl.load(memory + w + 1),)  # noqa: RUF005
    if EARLY:
        wait(program, rows * blocks * heads, ahead, ahead_bytes, PDL)

    # q | k | w1 | v | g | a | b, the first three activated
    query = projected + b * (2 * HEADS * KEY + GENERATOR + 2 * HEADS * VALUE + 2 * HEADS)
    hidden = query + 2 * HEADS * KEY
    value = hidden + GENERATOR
    gates = value + 2 * HEADS * VALUE + head
    gate = silu(tl.load(value + HEADS * VALUE + channel))
    newest = tl.load(value + channel).to(conv_state.dtype.element_ty)  # counts as it will be remembered
    window = window + (newest,)  # noqa: RUF005
    queries = load_vector(query + head * KEY, KEY, KEYS)
    keys = load_vector(query + (HEADS + head) * KEY, KEY, KEYS)
    decay = tl.exp(-rate * _softplus(tl.load(gates) + dt))
    beta = 1.0 / (1.0 + tl.exp(-tl.load(gates + HEADS)))

    recalled, answered, kk, qq, kq = _recall(states, keys, queries, ROWS, TILES, KEYS)
    k_scale = tl.rsqrt(kk + EPS)
    v = _convolve(
        weights, shares, biases, window, hidden, ROWS, GENERATOR, WIDTH, COLUMNS, SPAN, HALVES, SHARED
    )
    v = silu(v)
    error = beta * (v - decay * k_scale * recalled)
    result = tl.rsqrt(qq + EPS) * scale * (decay * answered + k_scale * kq * error)

    # A thread may hold a copy of what another one writes: all have read before the first writes.
    tl.debug_barrier()
    tl.store(out + b * (HEADS * VALUE) + channel, result * norm * gate, mask=mine)
    share = (b * HEADS + head) * blocks + tl.program_id(1)
    tl.store(squares + share, tl.sum(tl.where(mine, result * result, 0.0), 0))
    for w in tl.static_range(WIDTH):
        tl.store(memory + w, window[w], mask=mine)
    for t in tl.static_range(TILES):
        row = (t * KEYS + tl.arange(0, KEYS))[:, None]
        new = decay * states[t] + (k_scale * keys[t])[:, None] * error[None, :]
        tl.store(state[None, :] + row * VALUE, new, mask=(row < KEY) & mine[None, :])
