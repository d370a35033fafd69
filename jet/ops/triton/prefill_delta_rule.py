# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# mypy: disable-error-code="assignment, unreachable"
"""The gated delta rule over a chunk of a prompt: the fast twin of `chunk_delta_reference`.

The chunk is cut into blocks of 64 tokens. Inside a block the corrections u depend on each other through a
unit lower triangular system `(I + A) u = …`; see section 3.3 of arXiv 2412.06464. Three kernels:

- `_prepare`, one program per block and head, all of them parallel: gates, normalized keys and queries, and
  the system. Its results are scratch in the model's type.
- `_solve`, as parallel: the system's inverse.
- `_scan`, one program per head and some value channels: carries the state from block to block, and writes the
  outputs on its way. The state is held transposed, `[V, K]` in registers, so that it is the left operand of
  every product and never has to pass through shared memory.

`chunk_meta` on the device says which slot, how many tokens stand before the chunk, and how many it has. So
launches do not depend on it, and a captured graph serves every chunk up to its size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from jet.ops.gated_delta_rule import EPS
from jet.ops.reference import JetSizes
from jet.ops.triton.common import silu

BLOCK = 64  # tokens
_EPS = tl.constexpr(EPS)


@dataclass(frozen=True)
class Scratch:
    """What `_prepare` leaves for `_scan`, for `blocks` blocks of `BLOCK` tokens.

    Attributes:
        erase: minus the keys whose memory is corrected, `[N, H, tiles, BLOCK, KEYS]`; first faded keys.
        queries: faded since the block's start, in the same shape.
        keys: to be faded until the block's end, in the same shape.
        attention: what queries see of the block's own keys, `[N, H, BLOCK, BLOCK]`.
        system: A, in the shape of `attention`, in float16 or float32.
        solved: `(I + A)⁻¹` times strengths: from values, the corrections to an empty memory.
        strength: beta, `[N, H, BLOCK]` float32.
        fade: the decay over each block, `[N, H]` float32.
    """

    erase: Tensor
    queries: Tensor
    keys: Tensor
    attention: Tensor
    system: Tensor
    solved: Tensor
    strength: Tensor
    fade: Tensor

    @staticmethod
    def make(tokens: int, sizes: JetSizes, dtype: torch.dtype, device: torch.device) -> Scratch:
        """Scratch for chunks of up to `tokens` tokens."""
        blocks, (tiles, width) = triton.cdiv(tokens, BLOCK), key_tiles(sizes.head_k_dim)

        def empty(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.empty(blocks, sizes.num_heads, *shape, dtype=dtype, device=device)

        keyed = (tiles, BLOCK, width)
        return Scratch(
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
    """Into how many tiles a head's key channels are cut, and how wide these are.

    Never less than 64 channels, for which ptxas 12.8 reads registers that nothing has written.
    """
    return triton.cdiv(key, 64), 64


def pipeline_stages(key: int, itemsize: int, device: torch.device) -> int:
    """Stages of the scan's pipeline: three, or what shared memory has room for.

    Hopper's products read a buffer while the next is filled, so that each stage needs one; elsewhere the last
    stage's lies in registers.
    """
    if device.type != "cuda":
        return 1
    card = torch.cuda.get_device_properties(device)
    tiles, width = key_tiles(key)
    buffer = itemsize * BLOCK * (3 * tiles * width + 3 * BLOCK)
    buffers = int(getattr(card, "shared_memory_per_block_optin", 2 * buffer)) // buffer
    return max(1, min(3, buffers if card.major == 9 else buffers + 1))


def chunk_delta(
    projected: Tensor,
    values: Tensor,
    decays: tuple[Tensor, Tensor],
    chunk_meta: Tensor,
    states: tuple[Tensor, Tensor],
    out: Tensor,
    sizes: JetSizes,
    scratch: Scratch,
) -> None:
    """Twin of `chunk_delta_reference`."""
    blocks = triton.cdiv(len(projected), BLOCK)
    tiles, width = key_tiles(sizes.head_k_dim)
    columns = min(64, max(16, triton.next_power_of_2(sizes.head_v_dim)))
    shape = {
        "HEADS": sizes.num_heads,
        "KEY": sizes.head_k_dim,
        "VALUE": sizes.head_v_dim,
        "GENERATOR": sizes.generator_dim,
        "BLOCK": BLOCK,
        "TILES": tiles,
        "KEYS": width,
    }
    _prepare[(blocks, sizes.num_heads)](
        projected,
        *decays,
        chunk_meta,
        scratch.erase,
        scratch.queries,
        scratch.keys,
        scratch.attention,
        scratch.system,
        scratch.strength,
        scratch.fade,
        sizes.head_k_dim**-0.5,
        **shape,
        num_warps=4,
    )
    _solve[(blocks, sizes.num_heads)](
        chunk_meta,
        scratch.erase,
        scratch.system,
        scratch.strength,
        scratch.solved,
        HEADS=sizes.num_heads,
        BLOCK=BLOCK,
        TILES=tiles,
        KEYS=width,
        num_warps=4,
    )
    conv_state, recurrent_state = states
    _scan[(triton.cdiv(sizes.head_v_dim, columns), sizes.num_heads)](
        projected,
        values,
        chunk_meta,
        scratch.erase,
        scratch.queries,
        scratch.keys,
        scratch.attention,
        scratch.solved,
        scratch.fade,
        conv_state,
        recurrent_state,
        out,
        VALUES=columns,
        WIDTH=sizes.conv_size,
        STAGES=pipeline_stages(sizes.head_k_dim, projected.element_size(), projected.device),
        **shape,
        num_warps=4,
    )


@triton.jit
def _prepare(
    projected, log_decay_rate, dt_bias, chunk_meta, erase, queries, keys, attention, system, strength, fade,
    scale,
    HEADS: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr, GENERATOR: tl.constexpr,
    BLOCK: tl.constexpr, TILES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    COLUMNS: tl.constexpr = 2 * HEADS * KEY + GENERATOR + 2 * HEADS * VALUE + 2 * HEADS
    block, head = tl.program_id(0), tl.program_id(1)
    count = tl.load(chunk_meta + 2)
    if block * BLOCK >= count:
        return
    kind = erase.dtype.element_ty
    t = tl.arange(0, BLOCK)
    token = block * BLOCK + t
    there = token < count
    row = projected + token.to(tl.int64) * COLUMNS

    # Gates; what is beyond the chunk neither fades nor writes.
    gates = row + (COLUMNS - 2 * HEADS) + head
    given = tl.load(gates, mask=there, other=0.0).to(tl.float32)
    given += tl.load(dt_bias + head).to(tl.float32)
    rate = tl.exp(tl.load(log_decay_rate + head).to(tl.float32))
    softplus = tl.where(given > 20.0, given, tl.log(1.0 + tl.exp(tl.minimum(given, 20.0))))
    decay = tl.cumsum(tl.where(there, -rate * softplus, 0.0), 0)
    given = tl.load(gates + HEADS, mask=there, other=0.0).to(tl.float32)
    beta = tl.where(there, 1.0 / (1.0 + tl.exp(-given)), 0.0)
    tl.store(strength + (block * HEADS + head) * BLOCK + t, beta)
    whole = tl.sum(tl.where(t == BLOCK - 1, decay, 0.0), 0)  # over the block
    tl.store(fade + block * HEADS + head, tl.exp(whole))

    q_tiles = ()
    k_tiles = ()
    q_square = tl.zeros([BLOCK, KEYS], tl.float32)
    k_square = tl.zeros([BLOCK, KEYS], tl.float32)
    for i in tl.static_range(TILES):
        channel = i * KEYS + tl.arange(0, KEYS)
        inside = there[:, None] & (channel < KEY)[None, :]
        source = row[:, None] + head * KEY + channel[None, :]
        # Rounded as in the network's forward; they wait in registers.
        q = silu(tl.load(source, mask=inside, other=0.0).to(tl.float32)).to(kind)
        k = silu(tl.load(source + HEADS * KEY, mask=inside, other=0.0).to(tl.float32)).to(kind)
        q_square += q.to(tl.float32) * q.to(tl.float32)
        k_square += k.to(tl.float32) * k.to(tl.float32)
        q_tiles = q_tiles + (q,)  # noqa: RUF005
        k_tiles = k_tiles + (k,)  # noqa: RUF005
    q_scale = tl.rsqrt(tl.sum(q_square, 1) + _EPS) * scale
    k_scale = tl.rsqrt(tl.sum(k_square, 1) + _EPS)

    similar = tl.zeros([BLOCK, BLOCK], tl.float32)  # keys to keys
    seen = tl.zeros([BLOCK, BLOCK], tl.float32)  # queries to keys
    first = (block * HEADS + head).to(tl.int64) * TILES
    since = tl.exp(decay)  # the block's start
    until = tl.exp(whole - decay)  # its end
    for i in tl.static_range(TILES):
        k = k_tiles[i].to(tl.float32) * k_scale[:, None]
        q = q_tiles[i].to(tl.float32) * q_scale[:, None]
        similar = tl.dot(k.to(kind), tl.trans(k.to(kind)), similar)
        seen = tl.dot(q.to(kind), tl.trans(k.to(kind)), seen)
        target = ((first + i) * BLOCK + t[:, None]) * KEYS + tl.arange(0, KEYS)[None, :]
        tl.store(queries + target, (q * since[:, None]).to(kind))
        tl.store(keys + target, (k * until[:, None]).to(kind))
        tl.store(erase + target, (k * since[:, None]).to(kind))

    apart = decay[:, None] - decay[None, :]
    later = t[:, None] > t[None, :]
    between = tl.exp(tl.where(later, apart, 0.0))
    seen = tl.where(t[:, None] >= t[None, :], seen * between, 0.0)
    corner = ((block * HEADS + head).to(tl.int64) * BLOCK + t[:, None]) * BLOCK + t[None, :]
    tl.store(attention + corner, seen.to(kind))
    mixed = tl.where(later, similar * between * beta[:, None], 0.0)
    tl.store(system + corner, mixed.to(system.dtype.element_ty))


@triton.jit
def _solve(
    chunk_meta, erase, system, strength, solved,
    HEADS: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Invert a block's system, and apply that to its keys."""
    block, head = tl.program_id(0), tl.program_id(1)
    count = tl.load(chunk_meta + 2)
    if block * BLOCK >= count:
        return
    kind = erase.dtype.element_ty
    t = tl.arange(0, BLOCK)
    at = (block * HEADS + head).to(tl.int64)
    corner = (at * BLOCK + t[:, None]) * BLOCK + t[None, :]
    mixed = tl.load(system + corner).to(tl.float32)
    beta = tl.load(strength + at * BLOCK + t)
    inverse = (_inverse(mixed, BLOCK, kind == tl.float32) * beta[None, :]).to(kind)
    tl.store(solved + corner, inverse)
    for i in tl.static_range(TILES):
        tile = ((at * TILES + i) * BLOCK + t[:, None]) * KEYS + tl.arange(0, KEYS)[None, :]
        erased = tl.dot(inverse, tl.load(erase + tile))
        tl.store(erase + tile, (-erased).to(kind))


@triton.jit
def _inverse(system, BLOCK: tl.constexpr, EXACT: tl.constexpr):
    """`(I + system)⁻¹` for a strictly lower triangular `[BLOCK, BLOCK]`.

    Diagonal parts of 2, 4, 8 … rows are inverted, all of a size at once: with the inverses X of two halves
    and what lies below their diagonal, L, that of both together is `X - X L X`. Nothing large cancels in it,
    as it would in the powers of `system`. Every entry of an inverse is at most 1, as keys have length 1 and
    strengths are at most 1; so float16, of as many digits as tensor cores take of a float32, has room for
    all.
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
    projected, values, chunk_meta, erase, queries, keys, attention, solved, fade,
    conv_state, recurrent_state, out,
    HEADS: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr, GENERATOR: tl.constexpr,
    BLOCK: tl.constexpr, TILES: tl.constexpr, KEYS: tl.constexpr, VALUES: tl.constexpr,
    WIDTH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    COLUMNS: tl.constexpr = 2 * HEADS * KEY + GENERATOR + 2 * HEADS * VALUE + 2 * HEADS
    part, head = tl.program_id(0), tl.program_id(1)
    slot, count = tl.load(chunk_meta).to(tl.int64), tl.load(chunk_meta + 2)
    kind = erase.dtype.element_ty
    channel = part * VALUES + tl.arange(0, VALUES)
    mine = channel < VALUE
    t = tl.arange(0, BLOCK)
    c = tl.arange(0, KEYS)

    state = recurrent_state + (slot * HEADS + head) * (KEY * VALUE) + channel[:, None]
    held = ()
    for i in tl.static_range(TILES):
        key = i * KEYS + c
        inside = mine[:, None] & (key < KEY)[None, :]
        held = held + (tl.load(state + key[None, :] * VALUE, mask=inside, other=0.0),)  # noqa: RUF005

    for block in tl.range(0, tl.cdiv(count, BLOCK), num_stages=STAGES):
        at = (block * HEADS + head).to(tl.int64)
        token = block * BLOCK + t
        cell = token.to(tl.int64)[:, None] * (HEADS * VALUE) + head * VALUE + channel[None, :]
        read = (token < count)[:, None] & mine[None, :]
        value = tl.load(values + cell, mask=read, other=0.0)
        corner = at * BLOCK * BLOCK + t[:, None] * BLOCK + t[None, :]
        corrections = tl.dot(tl.trans(value), tl.trans(tl.load(solved + corner)))
        answers = tl.zeros([VALUES, BLOCK], tl.float32)
        lossy = ()
        for i in tl.static_range(TILES):
            lossy = lossy + (held[i].to(kind),)  # noqa: RUF005
        for i in tl.static_range(TILES):
            tile = (at * TILES + i) * BLOCK * KEYS + t[:, None] * KEYS + c[None, :]
            erased = tl.load(erase + tile, mask=(i * KEYS + c < KEY)[None, :], other=0.0)
            corrections = tl.dot(lossy[i], tl.trans(erased), corrections)
        for i in tl.static_range(TILES):
            tile = (at * TILES + i) * BLOCK * KEYS + t[:, None] * KEYS + c[None, :]
            asked = tl.load(queries + tile, mask=(i * KEYS + c < KEY)[None, :], other=0.0)
            answers = tl.dot(lossy[i], tl.trans(asked), answers)
        short = corrections.to(kind)
        kept = tl.load(fade + at)
        following = ()
        for i in tl.static_range(TILES):
            tile = (at * TILES + i) * BLOCK * KEYS + t[:, None] * KEYS + c[None, :]
            written = tl.load(keys + tile, mask=(i * KEYS + c < KEY)[None, :], other=0.0)
            following = following + (tl.dot(short, written, held[i] * kept),)  # noqa: RUF005
        held = following
        answers = tl.dot(short, tl.trans(tl.load(attention + corner)), answers)
        tl.store(out + cell, tl.trans(answers.to(out.dtype.element_ty)), mask=read)

    for i in tl.static_range(TILES):
        key = i * KEYS + c
        inside = mine[:, None] & (key < KEY)[None, :]
        tl.store(state + key[None, :] * VALUE, held[i], mask=inside)

    # The convolution's last inputs, which `convolve` has read by now.
    lane = head * VALUE + channel
    memory = conv_state + (slot * (HEADS * VALUE) + lane) * WIDTH
    raw = projected + (2 * HEADS * KEY + GENERATOR) + lane
    window = ()
    for w in tl.static_range(WIDTH):
        token = count - WIDTH + w + tl.zeros([VALUES], tl.int32)
        old = tl.load(memory + count + w, mask=mine & (token < 0), other=0.0)
        new = tl.load(raw + token.to(tl.int64) * COLUMNS, mask=mine & (token >= 0), other=0.0)
        window = window + (tl.where(token < 0, old, new.to(conv_state.dtype.element_ty)),)  # noqa: RUF005
    tl.debug_barrier()  # a thread may hold a copy of what another one writes
    for w in tl.static_range(WIDTH):
        tl.store(memory + w, window[w], mask=mine)
