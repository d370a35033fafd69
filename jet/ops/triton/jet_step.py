# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# mypy: disable-error-code="assignment"
"""A JetBlock's state update for one token: kernel generator, dynamic convolution, gated delta rule.

A program computes some value channels of one head of one row: their kernels, their convolution inputs and
their columns of the recurrent state, which no other program reads or writes. With S' = decay · S, one pass
over the old state is enough, because its products with key and query do not depend on the value:

    error = beta · (v − S'ᵀk)
    o = (S' + k errorᵀ)ᵀ q = S'ᵀq + (k·q) error

Likewise, the convolution's sum over the taps is inside the generator's sum over its hidden channels, so that
a channel needs one reduction instead of one for each tap.

Work that several programs would repeat is done once: the projection before this kernel activates the channels
that all programs read, and this kernel writes its result gated and scaled, with partial sums of each head's
squares. The product after it then only has to divide.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from jet.ops import gated_delta_rule
from jet.ops.quantization import Weight
from jet.ops.reference import JetSizes
from jet.ops.triton.common import (
    add_pairs,
    launch_dependents,
    launch_options,
    load_vector,
    prefetch_and_wait,
    silu,
)
from jet.ops.triton.gemv_config import GemvConfig, gemv_config_for
from jet.ops.triton.weight_tiles import (
    int4_products,
    kernel_tensors,
    load_rows,
    load_scales,
    row_layout,
    scale_rows,
    to_float32,
    zero_accumulator,
)

EPS = tl.constexpr(gated_delta_rule.EPS)
MAX_BLOCK_KEY = 64  # rows of the state in a tile


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
    partial_squares: Tensor,
    sizes: JetSizes,
    pdl: bool = False,
    config: GemvConfig | None = None,
    prefetch: Tensor | None = None,
    load_before_wait: bool = False,
) -> None:
    """Compute `jet_step_reference`, together with the first half of the gated norm that follows it.

    Arguments that differ from `jet_step_reference`:
        projected: with q, k and w1 already activated (`num_activated`).
        norm_weight: the gated norm's scale, `[V]`.
        out: `[B, H * V]` float32, gets the result times `norm_weight` and the activated gate.
        partial_squares: `[B, H, num_partials]` float32, gets partial sums of the squares of each head's
            result.
        load_before_wait: whether to read slots and states before waiting for the previous kernels. Earlier
            kernels in a chain of dependent launches must then not write them. A graph of one step meets this
            condition.
    """
    sizes.check(projected, kernels_weight, conv_state, recurrent_state, out)
    config = config or _config(sizes, kernels_weight)
    blocks = triton.cdiv(sizes.head_v_dim, config.block_n)
    if (
        partial_squares.shape != (projected.shape[0], sizes.num_heads, blocks)
        or not partial_squares.is_contiguous()
    ):
        raise ValueError(
            f"squares {list(partial_squares.shape)} should be {blocks} for each head of each row."
        )
    layout = row_layout(kernels_weight)
    block_k = min(config.block_k, triton.next_power_of_2(layout["ROW_SIZE"]))
    # Rows of a batch are neighbors in the grid: those after the first find the generator's weights in cache.
    _jet_step[(projected.shape[0], blocks, sizes.num_heads)](
        projected,
        *kernel_tensors(kernels_weight),
        kernels_bias,
        log_decay_rate,
        dt_bias,
        slots,
        conv_state,
        recurrent_state,
        norm_weight,
        out,
        partial_squares,
        sizes.head_k_dim**-0.5,
        HEADS=sizes.num_heads,
        HEAD_K_DIM=sizes.head_k_dim,
        HEAD_V_DIM=sizes.head_v_dim,
        GENERATOR_DIM=sizes.generator_dim,
        CONV_SIZE=sizes.conv_size,
        BLOCK_V=config.block_n,
        BLOCK_K=max(block_k, layout["GROUP_SIZE"]),
        **layout,
        BLOCK_KEY=block_key(sizes.head_k_dim),
        LOAD_BEFORE_WAIT=load_before_wait,
        **launch_options(config.num_warps, pdl, prefetch),
    )


def num_activated(sizes: JetSizes) -> int:
    """Return how many of the projection's first channels (q, k, w1) must be activated before `jet_step`."""
    return sum(sizes.split_sizes[:3])


def num_partials(sizes: JetSizes, weight: Weight, config: GemvConfig | None = None) -> int:
    """Return the number of partial sums of a head's squares, given the kernel generator's second `weight`."""
    return -(-sizes.head_v_dim // (config or _config(sizes, weight)).block_n)


def _config(sizes: JetSizes, weight: Weight) -> GemvConfig:
    return gemv_config_for("jet_step", sizes.num_heads * sizes.head_v_dim, weight)


def block_key(key: int) -> int:
    """Return the number of key channels in a tile of the state, a power of two of at most 64.

    It divides `key` if `key` is a multiple of 16.
    """
    divisor = key & -key
    return min(divisor, MAX_BLOCK_KEY) if divisor >= 16 else min(int(triton.next_power_of_2(key)), 32)


@triton.jit
def _add_triples(a, b, c, d, e, f):
    return a + d, b + e, c + f


@triton.jit
def _softplus(x):
    """Return `log(1 + exp(x))` in full float32 precision; the fast logarithm is inaccurate near 1."""
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
    weight_scales,
    bias,
    channel,
    CONV_SIZE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ROW_SIZE: tl.constexpr,
    HALVES: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
):
    """Load the generator's weights for the channels `[BLOCK_V]`, tap by tap.

    Returns three tuples: weight rows as tiles `[BLOCK_V, BLOCK_K]`, scales, and biases `[BLOCK_V]`.
    """
    weights = ()
    scales = ()
    biases = ()
    for w in tl.static_range(CONV_SIZE):
        row = channel * CONV_SIZE + w
        weights = weights + load_rows(weight, row, ROW_SIZE, BLOCK_K)
        scales = scales + load_scales(weight_scales, row, ROW_SIZE, HALVES, GROUP_SIZE, BLOCK_K)
        biases = biases + (tl.load(bias + row).to(tl.float32),)  # noqa: RUF005
    return weights, scales, biases


@triton.jit
def _load_state(state, in_head, HEAD_K_DIM: tl.constexpr, HEAD_V_DIM: tl.constexpr, BLOCK_KEY: tl.constexpr):
    """Load columns of a state as a tuple of tiles `[BLOCK_KEY, BLOCK_V]`.

    `state`: pointers to the columns' first elements, `[BLOCK_V]`.
    """
    tiles = ()
    for t in tl.static_range((HEAD_K_DIM + BLOCK_KEY - 1) // BLOCK_KEY):
        row = (t * BLOCK_KEY + tl.arange(0, BLOCK_KEY))[:, None]
        tile = tl.load(
            state[None, :] + row * HEAD_V_DIM, mask=(row < HEAD_K_DIM) & in_head[None, :], other=0.0
        )
        tiles = tiles + (tile,)  # noqa: RUF005
    return tiles


@triton.jit
def _convolve(
    weights,
    scales,
    biases,
    window,
    hidden,
    BLOCK_V: tl.constexpr,
    GENERATOR_DIM: tl.constexpr,
    CONV_SIZE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ROW_SIZE: tl.constexpr,
    HALVES: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
):
    """Generate each channel's kernel from `hidden`, and convolve the window with it; return `[BLOCK_V]`."""
    TILES: tl.constexpr = (ROW_SIZE + BLOCK_K - 1) // BLOCK_K
    products = zero_accumulator(BLOCK_V, BLOCK_K, GROUP_SIZE)
    for i in tl.static_range(HALVES * TILES):
        # In the shape of the weights, so that every thread loads what it multiplies.
        place = (i % TILES) * BLOCK_K + tl.arange(0, BLOCK_K)[None, :] + tl.zeros([BLOCK_V, 1], tl.int32)
        column = (i // TILES) * ROW_SIZE + place
        inputs = tl.load(hidden + column, mask=(place < ROW_SIZE) & (column < GENERATOR_DIM), other=0.0)
        if GROUP_SIZE > 0:
            for w in tl.static_range(CONV_SIZE):
                tile = weights[w * TILES + i % TILES]
                tap = int4_products(tile, inputs, scales, w * HALVES * TILES + i, i // TILES)
                products += tap * window[w].to(tl.float32)[:, None]
        else:
            mixed = tl.zeros([BLOCK_V, BLOCK_K], tl.float32)
            for w in tl.static_range(CONV_SIZE):
                weighed = scale_rows(window[w].to(tl.float32), weights[0], scales[w])
                mixed += to_float32(weights[w * TILES + i], 0) * weighed[:, None]
            products += mixed * inputs
    convolved = tl.sum(products, 1)
    for w in tl.static_range(CONV_SIZE):
        convolved += biases[w] * window[w].to(tl.float32)
    return convolved


@triton.jit
def _state_products(
    states, keys, queries, BLOCK_V: tl.constexpr, TILES: tl.constexpr, BLOCK_KEY: tl.constexpr
):
    """Return the products of the old state with key and query, `[BLOCK_V]` each, and k·k, q·q, k·q."""
    with_key = tl.zeros([BLOCK_KEY, BLOCK_V], tl.float32)
    with_query = tl.zeros([BLOCK_KEY, BLOCK_V], tl.float32)
    kk = tl.zeros([BLOCK_KEY], tl.float32)
    qq = tl.zeros([BLOCK_KEY], tl.float32)
    kq = tl.zeros([BLOCK_KEY], tl.float32)
    for t in tl.static_range(TILES):
        with_key += keys[t][:, None] * states[t]
        with_query += queries[t][:, None] * states[t]
        kk += keys[t] * keys[t]
        qq += queries[t] * queries[t]
        kq += keys[t] * queries[t]
    state_key, state_query = tl.reduce((with_key, with_query), 0, add_pairs)
    kk, qq, kq = tl.reduce((kk, qq, kq), 0, _add_triples)
    return state_key, state_query, kk, qq, kq


@triton.jit
def _jet_step(
    projected,
    kernels_weight,
    kernels_scales,
    kernels_bias,
    log_decay_rate,
    dt_bias,
    slots,
    conv_state,
    recurrent_state,
    norm_weight,
    out,
    partial_squares,
    scale,
    HEADS: tl.constexpr,
    HEAD_K_DIM: tl.constexpr,
    HEAD_V_DIM: tl.constexpr,
    GENERATOR_DIM: tl.constexpr,
    CONV_SIZE: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ROW_SIZE: tl.constexpr,
    HALVES: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    BLOCK_KEY: tl.constexpr,
    LOAD_BEFORE_WAIT: tl.constexpr,
    prefetch,
    prefetch_bytes,
    PDL: tl.constexpr,
):
    launch_dependents(PDL)
    TILES: tl.constexpr = (HEAD_K_DIM + BLOCK_KEY - 1) // BLOCK_KEY
    b = tl.program_id(0)
    head = tl.program_id(2)
    column = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)  # of the head's state
    in_head = column < HEAD_V_DIM
    channel = head * HEAD_V_DIM + tl.minimum(column, HEAD_V_DIM - 1)
    weights, scales, biases = _load_generator(
        kernels_weight,
        kernels_scales,
        kernels_bias,
        channel,
        CONV_SIZE,
        BLOCK_K,
        ROW_SIZE,
        HALVES,
        GROUP_SIZE,
    )
    rate = tl.exp(tl.load(log_decay_rate + head).to(tl.float32))
    dt = tl.load(dt_bias + head).to(tl.float32)
    norm = tl.load(norm_weight + column, mask=in_head, other=0.0).to(tl.float32)

    rows, blocks, heads = tl.num_programs(0), tl.num_programs(1), tl.num_programs(2)
    program = (head * blocks + tl.program_id(1)) * rows + b
    if not LOAD_BEFORE_WAIT:
        prefetch_and_wait(program, rows * blocks * heads, prefetch, prefetch_bytes, PDL)
    slot = tl.load(slots + b).to(tl.int64)
    state = recurrent_state + (slot * HEADS + head) * (HEAD_K_DIM * HEAD_V_DIM) + column
    states = _load_state(state, in_head, HEAD_K_DIM, HEAD_V_DIM, BLOCK_KEY)
    conv_ptr = conv_state + (slot * (HEADS * HEAD_V_DIM) + channel) * CONV_SIZE
    window = ()
    for w in tl.static_range(CONV_SIZE - 1):
        window = window + (tl.load(conv_ptr + w + 1),)  # noqa: RUF005
    if LOAD_BEFORE_WAIT:
        prefetch_and_wait(program, rows * blocks * heads, prefetch, prefetch_bytes, PDL)

    # q | k | w1 | v | g | a | b, the first three activated
    query = projected + b * (2 * HEADS * HEAD_K_DIM + GENERATOR_DIM + 2 * HEADS * HEAD_V_DIM + 2 * HEADS)
    hidden = query + 2 * HEADS * HEAD_K_DIM
    value = hidden + GENERATOR_DIM
    gates = value + 2 * HEADS * HEAD_V_DIM + head
    gate = silu(tl.load(value + HEADS * HEAD_V_DIM + channel))
    newest = tl.load(value + channel).to(conv_state.dtype.element_ty)  # counts as it will be remembered
    window = window + (newest,)  # noqa: RUF005
    queries = load_vector(query + head * HEAD_K_DIM, HEAD_K_DIM, BLOCK_KEY)
    keys = load_vector(query + (HEADS + head) * HEAD_K_DIM, HEAD_K_DIM, BLOCK_KEY)
    decay = tl.exp(-rate * _softplus(tl.load(gates) + dt))
    beta = 1.0 / (1.0 + tl.exp(-tl.load(gates + HEADS)))

    state_key, state_query, kk, qq, kq = _state_products(states, keys, queries, BLOCK_V, TILES, BLOCK_KEY)
    k_scale = tl.rsqrt(kk + EPS)
    v = _convolve(
        weights,
        scales,
        biases,
        window,
        hidden,
        BLOCK_V,
        GENERATOR_DIM,
        CONV_SIZE,
        BLOCK_K,
        ROW_SIZE,
        HALVES,
        GROUP_SIZE,
    )
    v = silu(v)
    error = beta * (v - decay * k_scale * state_key)
    result = tl.rsqrt(qq + EPS) * scale * (decay * state_query + k_scale * kq * error)

    # A thread may hold a copy of what another one writes: all have read before the first writes.
    tl.debug_barrier()
    tl.store(out + b * (HEADS * HEAD_V_DIM) + channel, result * norm * gate, mask=in_head)
    partial = (b * HEADS + head) * blocks + tl.program_id(1)
    tl.store(partial_squares + partial, tl.sum(tl.where(in_head, result * result, 0.0), 0))
    for w in tl.static_range(CONV_SIZE):
        tl.store(conv_ptr + w, window[w], mask=in_head)
    for t in tl.static_range(TILES):
        row = (t * BLOCK_KEY + tl.arange(0, BLOCK_KEY))[:, None]
        new = decay * states[t] + (k_scale * keys[t])[:, None] * error[None, :]
        tl.store(state[None, :] + row * HEAD_V_DIM, new, mask=(row < HEAD_K_DIM) & in_head[None, :])
