# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# mypy: disable-error-code="assignment"
"""The gated delta rule over a chunk of a prompt: the fast twin of `chunk_delta_reference`.

The chunk is cut into blocks of 64 tokens. Inside a block the corrections u depend on each other through a unit
lower triangular system `(I + A) u = …`; see section 3.3 of arXiv 2412.06464. Two kernels:

- `_prepare`, one program per block and head, all of them parallel: gates, normalized keys and queries, the
  inverse of the system, and what the block adds to any state. Its results are scratch in the model's type.
- `_scan`, one program per head and some value channels: carries the state from block to block, and writes the
  outputs on its way. The state is held transposed, `[V, K]` in registers, so that it is the left operand of
  every product and never has to pass through shared memory.

`place` on the device says which slot, how many tokens stand before the chunk, and how many it has. So launches
do not depend on it, and a captured graph serves every chunk up to its size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from jet.ops.fused import JetSizes
from jet.ops.gated_delta import EPS
from jet.ops.kernels.common import silu

BLOCK = 64  # tokens
CORNER = 16  # of the system: the size of the diagonal parts that are inverted row by row
_EPS = tl.constexpr(EPS)


@dataclass(frozen=True)
class Scratch:
    """What `_prepare` leaves for `_scan`, for `blocks` blocks of `BLOCK` tokens.

    Attributes:
        erase: minus the keys whose memory is corrected, `[N, H, tiles, BLOCK, KEYS]`.
        queries: faded since the block's start, in the same shape.
        keys: to be faded until the block's end, in the same shape.
        attention: what queries see of the block's own keys, `[N, H, BLOCK, BLOCK]`.
        fresh: corrections to an empty memory, transposed, `[N, H, V, BLOCK]`.
        fade: the decay over each block, `[N, H]` float32.
    """

    erase: Tensor
    queries: Tensor
    keys: Tensor
    attention: Tensor
    fresh: Tensor
    fade: Tensor

    @staticmethod
    def make(tokens: int, sizes: JetSizes, dtype: torch.dtype, device: torch.device) -> Scratch:
        """Scratch for chunks of up to `tokens` tokens."""
        blocks, (tiles, width) = triton.cdiv(tokens, BLOCK), key_tiles(sizes.key)

        def empty(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.empty(blocks, sizes.heads, *shape, dtype=dtype, device=device)

        keyed = (tiles, BLOCK, width)
        return Scratch(
            empty(*keyed),
            empty(*keyed),
            empty(*keyed),
            empty(BLOCK, BLOCK),
            empty(sizes.value, BLOCK),
            empty(dtype=torch.float32),
        )


def key_tiles(key: int) -> tuple[int, int]:
    """Into how many tiles a head's key channels are cut, and how wide these are."""
    width = max(16, min(64 if key % 64 == 0 else 32, triton.next_power_of_2(key)))
    return triton.cdiv(key, width), width


def chunk_delta(
    projected: Tensor,
    values: Tensor,
    decays: tuple[Tensor, Tensor],
    place: Tensor,
    states: tuple[Tensor, Tensor],
    out: Tensor,
    sizes: JetSizes,
    scratch: Scratch,
    stages: int = 2,
) -> None:
    """Twin of `chunk_delta_reference`; `stages`: of the pipeline over blocks."""
    blocks = triton.cdiv(len(projected), BLOCK)
    tiles, width = key_tiles(sizes.key)
    columns = min(64, max(16, triton.next_power_of_2(sizes.value)))
    shape = {
        "HEADS": sizes.heads,
        "KEY": sizes.key,
        "VALUE": sizes.value,
        "GENERATOR": sizes.generator,
        "BLOCK": BLOCK,
        "TILES": tiles,
        "KEYS": width,
        "VALUES": columns,
    }
    _prepare[(blocks, sizes.heads)](
        projected,
        values,
        *decays,
        place,
        scratch.erase,
        scratch.queries,
        scratch.keys,
        scratch.attention,
        scratch.fresh,
        scratch.fade,
        sizes.key**-0.5,
        CORNER=CORNER,
        **shape,
        num_warps=4,
    )
    conv_state, recurrent_state = states
    _scan[(triton.cdiv(sizes.value, columns), sizes.heads)](
        projected,
        place,
        scratch.erase,
        scratch.queries,
        scratch.keys,
        scratch.attention,
        scratch.fresh,
        scratch.fade,
        conv_state,
        recurrent_state,
        out,
        WIDTH=sizes.width,
        STAGES=stages,
        **shape,
        num_warps=4,
    )


@triton.jit
def _prepare(
    projected, values, log_decay_rate, dt_bias, place,
    erase, queries, keys, attention, fresh, fade, scale,
    HEADS: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr, GENERATOR: tl.constexpr,
    BLOCK: tl.constexpr, TILES: tl.constexpr, KEYS: tl.constexpr, VALUES: tl.constexpr,
    CORNER: tl.constexpr,
):  # fmt: skip
    COLUMNS: tl.constexpr = 2 * HEADS * KEY + GENERATOR + 2 * HEADS * VALUE + 2 * HEADS
    block, head = tl.program_id(0), tl.program_id(1)
    count = tl.load(place + 2)
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
    strength = tl.load(gates + HEADS, mask=there, other=0.0).to(tl.float32)
    beta = tl.where(there, 1.0 / (1.0 + tl.exp(-strength)), 0.0)
    whole = tl.sum(tl.where(t == BLOCK - 1, decay, 0.0), 0)  # over the block
    tl.store(fade + block * HEADS + head, tl.exp(whole))

    q_tiles = ()
    k_tiles = ()
    q_square = tl.zeros([BLOCK], tl.float32)
    k_square = tl.zeros([BLOCK], tl.float32)
    for i in tl.static_range(TILES):
        channel = i * KEYS + tl.arange(0, KEYS)
        inside = there[:, None] & (channel < KEY)[None, :]
        source = row[:, None] + head * KEY + channel[None, :]
        q = silu(tl.load(source, mask=inside, other=0.0).to(tl.float32))
        k = silu(tl.load(source + HEADS * KEY, mask=inside, other=0.0).to(tl.float32))
        q_square += tl.sum(q * q, 1)
        k_square += tl.sum(k * k, 1)
        q_tiles = q_tiles + (q,)  # noqa: RUF005
        k_tiles = k_tiles + (k,)  # noqa: RUF005
    q_scale = tl.rsqrt(q_square + _EPS) * scale
    k_scale = tl.rsqrt(k_square + _EPS)

    similar = tl.zeros([BLOCK, BLOCK], tl.float32)  # keys to keys
    seen = tl.zeros([BLOCK, BLOCK], tl.float32)  # queries to keys
    first = (block * HEADS + head).to(tl.int64) * TILES
    since = tl.exp(decay)  # the block's start
    until = tl.exp(whole - decay)  # its end
    for i in tl.static_range(TILES):
        k = k_tiles[i] * k_scale[:, None]
        q = q_tiles[i] * q_scale[:, None]
        similar = tl.dot(k.to(kind), tl.trans(k.to(kind)), similar)
        seen = tl.dot(q.to(kind), tl.trans(k.to(kind)), seen)
        target = ((first + i) * BLOCK + t[:, None]) * KEYS + tl.arange(0, KEYS)[None, :]
        tl.store(queries + target, (q * since[:, None]).to(kind))
        tl.store(keys + target, (k * until[:, None]).to(kind))

    apart = decay[:, None] - decay[None, :]
    later = t[:, None] > t[None, :]
    between = tl.exp(tl.where(later, apart, 0.0))
    seen = tl.where(t[:, None] >= t[None, :], seen * between, 0.0)
    corner = ((block * HEADS + head).to(tl.int64) * BLOCK + t[:, None]) * BLOCK + t[None, :]
    tl.store(attention + corner, seen.to(kind))
    system = tl.where(later, similar * between * beta[:, None], 0.0)
    solved = _inverse(system, BLOCK, CORNER).to(kind)

    for i in tl.static_range(TILES):
        k = k_tiles[i] * (k_scale * beta * since)[:, None]
        corrected = tl.dot(solved, k.to(kind))
        target = ((first + i) * BLOCK + t[:, None]) * KEYS + tl.arange(0, KEYS)[None, :]
        tl.store(erase + target, (-corrected).to(kind))
    turned = tl.trans(solved)
    for i in tl.static_range((VALUE + VALUES - 1) // VALUES):
        channel = i * VALUES + tl.arange(0, VALUES)
        inside = there[:, None] & (channel < VALUE)[None, :]
        source = values + token.to(tl.int64)[:, None] * (HEADS * VALUE) + head * VALUE + channel[None, :]
        v = tl.load(source, mask=inside, other=0.0).to(tl.float32) * beta[:, None]
        made = tl.dot(tl.trans(v.to(kind)), turned)
        target = ((block * HEADS + head).to(tl.int64) * VALUE + channel[:, None]) * BLOCK + t[None, :]
        tl.store(fresh + target, made.to(kind), mask=(channel < VALUE)[:, None])


@triton.jit
def _inverse(system, BLOCK: tl.constexpr, CORNER: tl.constexpr):
    """`(I + system)⁻¹` for a strictly lower triangular `[BLOCK, BLOCK]`.

    Its diagonal corners D are inverted by elimination, all at once. With the rest L and N = D⁻¹ L, of which
    the fourth power is 0, it is `(I - N) (I + N²) D⁻¹`.
    """
    PARTS: tl.constexpr = BLOCK // CORNER
    part = tl.arange(0, PARTS)
    own = (part[:, None] == part[None, :])[:, None, :, None]
    corners = tl.sum(tl.where(own, tl.reshape(system, [PARTS, CORNER, PARTS, CORNER]), 0.0), 2)
    i = tl.arange(0, CORNER)
    solved = tl.where((i[:, None] == i[None, :])[None, :, :], 1.0, tl.zeros([PARTS, CORNER, CORNER], tl.float32))
    for j in tl.static_range(CORNER - 1):
        column = tl.sum(tl.where((i == j)[None, None, :], corners, 0.0), 2)
        line = tl.sum(tl.where((i == j)[None, :, None], solved, 0.0), 1)
        solved -= column[:, :, None] * line[:, None, :]
    spread = tl.where(own, solved[:, :, None, :], tl.zeros([PARTS, CORNER, PARTS, CORNER], tl.float32))
    inverse = tl.reshape(spread, [BLOCK, BLOCK])
    if PARTS == 1:
        return inverse
    t = tl.arange(0, BLOCK)
    rest = tl.where((t // CORNER)[:, None] > (t // CORNER)[None, :], system, 0.0)
    same = tl.where(t[:, None] == t[None, :], 1.0, tl.zeros([BLOCK, BLOCK], tl.float32))
    step = tl.dot(inverse, rest)
    twice = tl.dot(step, step)
    return tl.dot(tl.dot(same - step, same + twice), inverse)


@triton.jit
def _scan(
    projected, place, erase, queries, keys, attention, fresh, fade, conv_state, recurrent_state, out,
    HEADS: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr, GENERATOR: tl.constexpr,
    BLOCK: tl.constexpr, TILES: tl.constexpr, KEYS: tl.constexpr, VALUES: tl.constexpr,
    WIDTH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    COLUMNS: tl.constexpr = 2 * HEADS * KEY + GENERATOR + 2 * HEADS * VALUE + 2 * HEADS
    part, head = tl.program_id(0), tl.program_id(1)
    slot, count = tl.load(place).to(tl.int64), tl.load(place + 2)
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
        source = at * VALUE * BLOCK + channel[:, None] * BLOCK + t[None, :]
        corrections = tl.load(fresh + source, mask=mine[:, None], other=0.0).to(tl.float32)
        answers = tl.zeros([VALUES, BLOCK], tl.float32)
        lossy = ()
        for i in tl.static_range(TILES):
            lossy = lossy + (held[i].to(kind),)  # noqa: RUF005
        for i in tl.static_range(TILES):
            tile = (at * TILES + i) * BLOCK * KEYS + t[:, None] * KEYS + c[None, :]
            corrections = tl.dot(lossy[i], tl.trans(tl.load(erase + tile)), corrections)
        for i in tl.static_range(TILES):
            tile = (at * TILES + i) * BLOCK * KEYS + t[:, None] * KEYS + c[None, :]
            answers = tl.dot(lossy[i], tl.trans(tl.load(queries + tile)), answers)
        short = corrections.to(kind)
        kept = tl.load(fade + at)
        following = ()
        for i in tl.static_range(TILES):
            tile = (at * TILES + i) * BLOCK * KEYS + t[:, None] * KEYS + c[None, :]
            following = following + (tl.dot(short, tl.load(keys + tile), held[i] * kept),)  # noqa: RUF005
        held = following
        corner = tl.load(attention + at * BLOCK * BLOCK + t[:, None] * BLOCK + t[None, :])
        answers = tl.dot(short, tl.trans(corner), answers)
        token = block * BLOCK + t
        target = out + token.to(tl.int64)[None, :] * (HEADS * VALUE) + head * VALUE + channel[:, None]
        read = mine[:, None] & (token < count)[None, :]
        tl.store(target, answers.to(out.dtype.element_ty), mask=read)

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
