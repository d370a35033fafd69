# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# mypy: disable-error-code="assignment, unreachable"
"""The gated delta rule for a prefill chunk: Triton kernels for `chunk_delta_reference`.

The chunk is divided into blocks of 64 tokens. Within a block the corrections u depend on each other through a
unit lower triangular system `(I + A) u = …`; see section 3.3 of arXiv 2412.06464. Three kernels:

- `_prepare`, one program per block and head, all in parallel: computes gates, normalized keys and queries,
  and the system, and writes them to scratch memory.
- `_solve`, equally parallel: computes the inverse of the system.
- `_scan`, one program per head and some value channels: carries the state from block to block, and writes the
  outputs. The state is kept transposed, `[V, K]` in registers, so that it is the left operand of every
  product and never goes through shared memory.

`chunk_meta` (`jet.ops.chunk_meta`) on the device tells which slots the tokens belong to. So a captured graph
serves every chunk up to its size. Segments are scanned in parallel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from jet.ops.chunk_meta import ALIGNMENT, max_segments
from jet.ops.gated_delta_rule import EPS
from jet.ops.gpu_target import gpu_target
from jet.ops.reference import JetSizes
from jet.ops.triton.common import load_segment, segment_at, silu

BLOCK = ALIGNMENT  # tokens; a block has tokens of one segment
_EPS = tl.constexpr(EPS)


@dataclass(frozen=True)
class DeltaRuleScratch:
    """Results of `_prepare` and `_solve` for `_scan`: N blocks of `BLOCK` tokens, H heads.

    All tensors have the model's type unless another type is named.

    Attributes:
        w_keys: keys with the decay since the block's start, `[N, H, tiles, BLOCK, BLOCK_KEY]`; `_solve`
            multiplies them by `-inverse`, to give the corrections by the state before the block.
        queries: queries with the decay since the block's start, in the same shape.
        keys: keys with the decay until the block's end, in the same shape.
        attention: products of queries and keys within the block, with decay, `[N, H, BLOCK, BLOCK]`.
        system: the matrix A of the system, in the shape of `attention`, in float16 or float32.
        inverse: `(I + A)⁻¹ · diag(beta)`, in the shape of `attention`; times the values, it gives the
            corrections for a state of zeros.
        beta: the step sizes β, `[N, H, BLOCK]` float32.
        block_decay: the decay over each block, `[N, H]` float32.
    """

    w_keys: Tensor
    queries: Tensor
    keys: Tensor
    attention: Tensor
    system: Tensor
    inverse: Tensor
    beta: Tensor
    block_decay: Tensor

    @staticmethod
    def make(tokens: int, sizes: JetSizes, dtype: torch.dtype, device: torch.device) -> DeltaRuleScratch:
        """Allocate scratch memory for chunks of up to `tokens` tokens."""
        blocks, (tiles, width) = triton.cdiv(tokens, BLOCK), key_tiles(sizes.head_k_dim)

        def empty(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.empty(blocks, sizes.num_heads, *shape, dtype=dtype, device=device)

        keyed = (tiles, BLOCK, width)
        return DeltaRuleScratch(
            empty(*keyed),
            empty(*keyed),
            empty(*keyed),
            empty(BLOCK, BLOCK),
            empty(BLOCK, BLOCK, dtype=torch.float32 if dtype == torch.float32 else torch.float16),
            empty(BLOCK, BLOCK),
            empty(BLOCK, dtype=torch.float32),
            empty(dtype=torch.float32),
        )


def key_tiles(key: int) -> tuple[int, int]:
    """Return the number of tiles of a head's key channels, and the width of a tile.

    Tiles have at least 64 channels: with fewer, ptxas 12.8 generates code that reads uninitialized registers.
    """
    return triton.cdiv(key, 64), 64


def pipeline_stages(key: int, itemsize: int, device: torch.device) -> int:
    """Return the number of stages of the scan's pipeline: three, or as many as fit in shared memory.

    On Hopper each stage needs a buffer, since products read one while the next is filled; on other GPUs the
    last stage is in registers.
    """
    target = gpu_target(device)
    if target is None:
        return 1
    tiles, width = key_tiles(key)
    buffer = itemsize * BLOCK * (3 * tiles * width + 3 * BLOCK)
    buffers = target.shared_memory // buffer
    return max(1, min(3, buffers if target.capability // 10 == 9 else buffers + 1))


def chunk_delta(
    projected: Tensor,
    values: Tensor,
    decays: tuple[Tensor, Tensor],
    chunk_meta: Tensor,
    states: tuple[Tensor, Tensor],
    out: Tensor,
    sizes: JetSizes,
    scratch: DeltaRuleScratch,
) -> None:
    """Compute the same as `chunk_delta_reference`."""
    blocks = triton.cdiv(len(projected), BLOCK)
    tiles, width = key_tiles(sizes.head_k_dim)
    columns = min(64, max(16, triton.next_power_of_2(sizes.head_v_dim)))
    shape = {
        "HEADS": sizes.num_heads,
        "HEAD_K_DIM": sizes.head_k_dim,
        "HEAD_V_DIM": sizes.head_v_dim,
        "GENERATOR_DIM": sizes.generator_dim,
        "BLOCK": BLOCK,
        "TILES": tiles,
        "BLOCK_KEY": width,
    }
    _prepare[(blocks, sizes.num_heads)](
        projected,
        *decays,
        chunk_meta,
        scratch.w_keys,
        scratch.queries,
        scratch.keys,
        scratch.attention,
        scratch.system,
        scratch.beta,
        scratch.block_decay,
        sizes.head_k_dim**-0.5,
        **shape,
        num_warps=4,
    )
    _solve[(blocks, sizes.num_heads)](
        chunk_meta,
        scratch.w_keys,
        scratch.system,
        scratch.beta,
        scratch.inverse,
        HEADS=sizes.num_heads,
        BLOCK=BLOCK,
        TILES=tiles,
        BLOCK_KEY=width,
        num_warps=4,
    )
    conv_state, recurrent_state = states
    _scan[(triton.cdiv(sizes.head_v_dim, columns), sizes.num_heads, max_segments(len(projected)))](
        projected,
        values,
        chunk_meta,
        scratch.w_keys,
        scratch.queries,
        scratch.keys,
        scratch.attention,
        scratch.inverse,
        scratch.block_decay,
        conv_state,
        recurrent_state,
        out,
        BLOCK_V=columns,
        CONV_SIZE=sizes.conv_size,
        NUM_STAGES=pipeline_stages(sizes.head_k_dim, projected.element_size(), projected.device),
        **shape,
        num_warps=4,
    )


@triton.jit
def _prepare(
    projected, log_decay_rate, dt_bias, chunk_meta, w_keys, queries, keys, attention, system, beta,
    block_decay,
    scale,
    HEADS: tl.constexpr, HEAD_K_DIM: tl.constexpr, HEAD_V_DIM: tl.constexpr, GENERATOR_DIM: tl.constexpr,
    BLOCK: tl.constexpr, TILES: tl.constexpr, BLOCK_KEY: tl.constexpr,
):  # fmt: skip
    ROW_SIZE: tl.constexpr = 2 * HEADS * HEAD_K_DIM + GENERATOR_DIM + 2 * HEADS * HEAD_V_DIM + 2 * HEADS
    block, head = tl.program_id(0), tl.program_id(1)
    _, _, count, offset = load_segment(chunk_meta, segment_at(chunk_meta, block * BLOCK))
    if block * BLOCK >= offset + count:
        return
    kind = w_keys.dtype.element_ty
    t = tl.arange(0, BLOCK)
    token = block * BLOCK + t
    valid = token < offset + count
    row = projected + token.to(tl.int64) * ROW_SIZE

    # Gates; what is beyond the chunk neither fades nor writes.
    gates = row + (ROW_SIZE - 2 * HEADS) + head
    given = tl.load(gates, mask=valid, other=0.0).to(tl.float32)
    given += tl.load(dt_bias + head).to(tl.float32)
    rate = tl.exp(tl.load(log_decay_rate + head).to(tl.float32))
    softplus = tl.where(given > 20.0, given, tl.log(1.0 + tl.exp(tl.minimum(given, 20.0))))
    decay = tl.cumsum(tl.where(valid, -rate * softplus, 0.0), 0)
    given = tl.load(gates + HEADS, mask=valid, other=0.0).to(tl.float32)
    beta_t = tl.where(valid, 1.0 / (1.0 + tl.exp(-given)), 0.0)
    tl.store(beta + (block * HEADS + head) * BLOCK + t, beta_t)
    total_decay = tl.sum(tl.where(t == BLOCK - 1, decay, 0.0), 0)  # over the block
    tl.store(block_decay + block * HEADS + head, tl.exp(total_decay))

    q_tiles = ()
    k_tiles = ()
    q_square = tl.zeros([BLOCK, BLOCK_KEY], tl.float32)
    k_square = tl.zeros([BLOCK, BLOCK_KEY], tl.float32)
    for i in tl.static_range(TILES):
        channel = i * BLOCK_KEY + tl.arange(0, BLOCK_KEY)
        inside = valid[:, None] & (channel < HEAD_K_DIM)[None, :]
        source = row[:, None] + head * HEAD_K_DIM + channel[None, :]
        # Rounded as in the network's forward; they wait in registers.
        q = silu(tl.load(source, mask=inside, other=0.0).to(tl.float32)).to(kind)
        k = silu(tl.load(source + HEADS * HEAD_K_DIM, mask=inside, other=0.0).to(tl.float32)).to(kind)
        q_square += q.to(tl.float32) * q.to(tl.float32)
        k_square += k.to(tl.float32) * k.to(tl.float32)
        q_tiles = q_tiles + (q,)  # noqa: RUF005
        k_tiles = k_tiles + (k,)  # noqa: RUF005
    q_scale = tl.rsqrt(tl.sum(q_square, 1) + _EPS) * scale
    k_scale = tl.rsqrt(tl.sum(k_square, 1) + _EPS)

    kk = tl.zeros([BLOCK, BLOCK], tl.float32)  # keys to keys
    qk = tl.zeros([BLOCK, BLOCK], tl.float32)  # queries to keys
    first = (block * HEADS + head).to(tl.int64) * TILES
    from_start = tl.exp(decay)  # the block's start
    to_end = tl.exp(total_decay - decay)  # its end
    for i in tl.static_range(TILES):
        k = k_tiles[i].to(tl.float32) * k_scale[:, None]
        q = q_tiles[i].to(tl.float32) * q_scale[:, None]
        kk = tl.dot(k.to(kind), tl.trans(k.to(kind)), kk)
        qk = tl.dot(q.to(kind), tl.trans(k.to(kind)), qk)
        target = ((first + i) * BLOCK + t[:, None]) * BLOCK_KEY + tl.arange(0, BLOCK_KEY)[None, :]
        tl.store(queries + target, (q * from_start[:, None]).to(kind))
        tl.store(keys + target, (k * to_end[:, None]).to(kind))
        tl.store(w_keys + target, (k * from_start[:, None]).to(kind))

    apart = decay[:, None] - decay[None, :]
    later = t[:, None] > t[None, :]
    decay_ratio = tl.exp(tl.where(later, apart, 0.0))
    qk = tl.where(t[:, None] >= t[None, :], qk * decay_ratio, 0.0)
    corner = ((block * HEADS + head).to(tl.int64) * BLOCK + t[:, None]) * BLOCK + t[None, :]
    tl.store(attention + corner, qk.to(kind))
    a = tl.where(later, kk * decay_ratio * beta_t[:, None], 0.0)
    tl.store(system + corner, a.to(system.dtype.element_ty))


@triton.jit
def _solve(
    chunk_meta, w_keys, system, beta, inverse,
    HEADS: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr, BLOCK_KEY: tl.constexpr,
):  # fmt: skip
    """Invert a block's system, and multiply the keys by the inverse."""
    block, head = tl.program_id(0), tl.program_id(1)
    _, _, count, offset = load_segment(chunk_meta, segment_at(chunk_meta, block * BLOCK))
    if block * BLOCK >= offset + count:
        return
    kind = w_keys.dtype.element_ty
    t = tl.arange(0, BLOCK)
    at = (block * HEADS + head).to(tl.int64)
    corner = (at * BLOCK + t[:, None]) * BLOCK + t[None, :]
    a = tl.load(system + corner).to(tl.float32)
    beta_t = tl.load(beta + at * BLOCK + t)
    inverse_t = (_inverse(a, BLOCK, kind == tl.float32) * beta_t[None, :]).to(kind)
    tl.store(inverse + corner, inverse_t)
    for i in tl.static_range(TILES):
        tile = ((at * TILES + i) * BLOCK + t[:, None]) * BLOCK_KEY + tl.arange(0, BLOCK_KEY)[None, :]
        erased = tl.dot(inverse_t, tl.load(w_keys + tile))
        tl.store(w_keys + tile, (-erased).to(kind))


@triton.jit
def _inverse(system, BLOCK: tl.constexpr, EXACT: tl.constexpr):
    """Return `(I + system)⁻¹` for a strictly lower triangular system `[BLOCK, BLOCK]`.

    Diagonal blocks of 2, 4, 8 … rows are inverted in turn, all of one size at once: if X is the
    block-diagonal inverse of two halves, and L the block below the diagonal between them, the inverse of both
    is `X - X L X`. Unlike in a sum of powers of `system`, no large terms cancel. All entries of an inverse
    are at most 1, since keys have length 1 and beta is at most 1. So float16 can hold them, with as many
    digits as tensor cores use of a float32.
    """
    kind: tl.constexpr = tl.float32 if EXACT else tl.float16
    t = tl.arange(0, BLOCK)
    apart = t[:, None] ^ t[None, :]  # its highest bit is the size at which row and column part
    inverse = tl.where(apart == 0, 1.0, tl.where(apart == 1, -system, 0.0))
    size = 2
    for _ in tl.static_range(BLOCK.bit_length() - 2):
        below = tl.where((apart >= size) & (apart < 2 * size), system, 0.0)
        short = inverse.to(kind)
        inverse -= tl.dot(short, tl.dot(below.to(kind), short).to(kind))
        size *= 2
    return inverse


@triton.jit
def _scan(
    projected, values, chunk_meta, w_keys, queries, keys, attention, inverse, block_decay,
    conv_state, recurrent_state, out,
    HEADS: tl.constexpr, HEAD_K_DIM: tl.constexpr, HEAD_V_DIM: tl.constexpr, GENERATOR_DIM: tl.constexpr,
    BLOCK: tl.constexpr, TILES: tl.constexpr, BLOCK_KEY: tl.constexpr, BLOCK_V: tl.constexpr,
    CONV_SIZE: tl.constexpr, NUM_STAGES: tl.constexpr,
):  # fmt: skip
    ROW_SIZE: tl.constexpr = 2 * HEADS * HEAD_K_DIM + GENERATOR_DIM + 2 * HEADS * HEAD_V_DIM + 2 * HEADS
    part, head = tl.program_id(0), tl.program_id(1)
    slot, _, count, offset = load_segment(chunk_meta, tl.program_id(2))
    if count == 0:
        return
    kind = w_keys.dtype.element_ty
    channel = part * BLOCK_V + tl.arange(0, BLOCK_V)
    in_head = channel < HEAD_V_DIM
    t = tl.arange(0, BLOCK)
    c = tl.arange(0, BLOCK_KEY)

    state = recurrent_state + (slot * HEADS + head) * (HEAD_K_DIM * HEAD_V_DIM) + channel[:, None]
    states = ()
    for i in tl.static_range(TILES):
        key = i * BLOCK_KEY + c
        inside = in_head[:, None] & (key < HEAD_K_DIM)[None, :]
        states = states + (tl.load(state + key[None, :] * HEAD_V_DIM, mask=inside, other=0.0),)  # noqa: RUF005

    for block in tl.range(0, tl.cdiv(count, BLOCK), num_stages=NUM_STAGES):
        at = ((offset // BLOCK + block) * HEADS + head).to(tl.int64)
        token = block * BLOCK + t
        cell = (
            (offset + token).to(tl.int64)[:, None] * (HEADS * HEAD_V_DIM)
            + head * HEAD_V_DIM
            + channel[None, :]
        )
        read = (token < count)[:, None] & in_head[None, :]
        value = tl.load(values + cell, mask=read, other=0.0)
        corner = at * BLOCK * BLOCK + t[:, None] * BLOCK + t[None, :]
        corrections = tl.dot(tl.trans(value), tl.trans(tl.load(inverse + corner)))
        output = tl.zeros([BLOCK_V, BLOCK], tl.float32)
        rounded = ()
        for i in tl.static_range(TILES):
            rounded = rounded + (states[i].to(kind),)  # noqa: RUF005
        for i in tl.static_range(TILES):
            tile = (at * TILES + i) * BLOCK * BLOCK_KEY + t[:, None] * BLOCK_KEY + c[None, :]
            erased = tl.load(w_keys + tile, mask=(i * BLOCK_KEY + c < HEAD_K_DIM)[None, :], other=0.0)
            corrections = tl.dot(rounded[i], tl.trans(erased), corrections)
        for i in tl.static_range(TILES):
            tile = (at * TILES + i) * BLOCK * BLOCK_KEY + t[:, None] * BLOCK_KEY + c[None, :]
            query = tl.load(queries + tile, mask=(i * BLOCK_KEY + c < HEAD_K_DIM)[None, :], other=0.0)
            output = tl.dot(rounded[i], tl.trans(query), output)
        short = corrections.to(kind)
        decay = tl.load(block_decay + at)
        new_states = ()
        for i in tl.static_range(TILES):
            tile = (at * TILES + i) * BLOCK * BLOCK_KEY + t[:, None] * BLOCK_KEY + c[None, :]
            key_tile = tl.load(keys + tile, mask=(i * BLOCK_KEY + c < HEAD_K_DIM)[None, :], other=0.0)
            new_states = new_states + (tl.dot(short, key_tile, states[i] * decay),)  # noqa: RUF005
        states = new_states
        output = tl.dot(short, tl.trans(tl.load(attention + corner)), output)
        tl.store(out + cell, tl.trans(output.to(out.dtype.element_ty)), mask=read)

    for i in tl.static_range(TILES):
        key = i * BLOCK_KEY + c
        inside = in_head[:, None] & (key < HEAD_K_DIM)[None, :]
        tl.store(state + key[None, :] * HEAD_V_DIM, states[i], mask=inside)

    # The convolution's last inputs, which `convolve` has read by now.
    lane = head * HEAD_V_DIM + channel
    memory = conv_state + (slot * (HEADS * HEAD_V_DIM) + lane) * CONV_SIZE
    raw = projected + (2 * HEADS * HEAD_K_DIM + GENERATOR_DIM) + lane
    window = ()
    for w in tl.static_range(CONV_SIZE):
        token = count - CONV_SIZE + w + tl.zeros([BLOCK_V], tl.int32)
        old = tl.load(memory + count + w, mask=in_head & (token < 0), other=0.0)
        new = tl.load(raw + (offset + token).to(tl.int64) * ROW_SIZE, mask=in_head & (token >= 0), other=0.0)
        window = window + (tl.where(token < 0, old, new.to(conv_state.dtype.element_ty)),)  # noqa: RUF005
    tl.debug_barrier()  # a thread may hold a copy of what another one writes
    for w in tl.static_range(CONV_SIZE):
        tl.store(memory + w, window[w], mask=in_head)
