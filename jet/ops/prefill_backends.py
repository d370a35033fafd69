"""Define the operations between the matrix products of a prefill chunk in plain torch, and choose kernels.

A chunk has T tokens of one or several sequences, padded to a size for which there is a graph. `chunk_meta` on
the device tells which tokens belong to which sequence (`jet.ops.chunk_meta`). Padding follows the tokens of a
sequence. It changes no state, and its outputs are not used.

Tensors are `[T, …]` in the network's type; results are computed in float32. Memory is laid out as in
`StatePool`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from jet.ops.attention import gather_pages, gather_window, write_pages, write_window
from jet.ops.chunk_meta import read_segments
from jet.ops.dynamic_conv import dynamic_conv
from jet.ops.gated_delta_rule import chunk_gated_delta_rule
from jet.ops.reference import JetSizes

NormOp = Callable[[Tensor, Tensor, float, Tensor], None]
# Projections, values, decays, place, states, out, sizes.
DeltaRuleOp = Callable[
    [Tensor, Tensor, tuple[Tensor, Tensor], Tensor, tuple[Tensor, Tensor], Tensor, JetSizes], None
]


@dataclass(frozen=True)
class PrefillBackend:
    """One implementation of each prefill operation, with the arguments of its `_reference` function.

    Attributes:
        name: the implementation's name, as shown to users.
    """

    name: str
    norm: NormOp
    swiglu: Callable[[Tensor, Tensor], None]
    activate: Callable[[Tensor, Tensor], None]
    convolve: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], None]
    chunk_delta: DeltaRuleOp
    gated_norm: Callable[[Tensor, Tensor, Tensor, float, Tensor], None]
    attend_pages: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], None]
    attend_window: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], None]


def reference_prefill_backend() -> PrefillBackend:
    """Return the implementation in plain torch, for any device.

    It reads `chunk_meta` on the host, so it cannot be captured in a graph.
    """
    return PrefillBackend(
        name="torch",
        norm=norm_reference,
        swiglu=swiglu_reference,
        activate=activate_reference,
        convolve=convolve_reference,
        chunk_delta=chunk_delta_reference,
        gated_norm=gated_norm_reference,
        attend_pages=attend_pages_reference,
        attend_window=attend_window_reference,
    )


def triton_prefill_backend(
    tokens: int, sizes: JetSizes | None, dtype: torch.dtype, device: torch.device
) -> PrefillBackend:
    """Return the Triton kernels for chunks of up to `tokens` tokens.

    `sizes`: the sizes of the jet layers; None if the network has no jet layers.
    """
    from jet.ops.triton import prefill_attention, prefill_delta_rule, prefill_elementwise

    scratch = (
        None if sizes is None else prefill_delta_rule.DeltaRuleScratch.make(tokens, sizes, dtype, device)
    )

    def delta(
        projected: Tensor,
        values: Tensor,
        decays: tuple[Tensor, Tensor],
        chunk_meta: Tensor,
        states: tuple[Tensor, Tensor],
        out: Tensor,
        sizes: JetSizes,
    ) -> None:
        assert scratch is not None
        prefill_delta_rule.chunk_delta(projected, values, decays, chunk_meta, states, out, sizes, scratch)

    return PrefillBackend(
        name="triton",
        norm=prefill_elementwise.norm,
        swiglu=prefill_elementwise.swiglu,
        activate=prefill_elementwise.activate,
        convolve=prefill_elementwise.convolve,
        chunk_delta=delta,
        gated_norm=prefill_elementwise.gated_norm,
        attend_pages=prefill_attention.attend_pages,
        attend_window=prefill_attention.attend_window,
    )


def norm_reference(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """Compute `out = rmsnorm(x) * weight` for x and out `[T, C]` and weight `[C]`."""
    out.copy_(F.rms_norm(x.float(), weight.shape, weight.float(), eps))


def swiglu_reference(both: Tensor, out: Tensor) -> None:
    """Compute `out = silu(g) * u` `[T, I]` for `g | u = both` `[T, 2 * I]`."""
    gate, up = both.float().chunk(2, dim=1)
    out.copy_(F.silu(gate) * up)


def activate_reference(x: Tensor, out: Tensor) -> None:
    """Compute `out = silu(x)`; x may be a slice of a wider matrix's columns."""
    out.copy_(F.silu(x.float()))


def gated_norm_reference(o: Tensor, gate: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """Compute `out = rmsnorm(o) * silu(gate)`, with the norm per head.

    Args:
        o: `[T, H * V]`.
        gate: `[T, H * V]`; may be a slice of a wider matrix's columns.
        weight: the norm's scale, `[V]`.
        eps: the norm's epsilon.
        out: `[T, H * V]`, overwritten; it may be `o`.
    """
    heads = o.float().unflatten(1, (-1, weight.shape[0]))
    normed = F.rms_norm(heads, weight.shape, weight.float(), eps).flatten(1)
    out.copy_(normed * F.silu(gate.float()))


def convolve_reference(
    values: Tensor, kernels: Tensor, bias: Tensor, chunk_meta: Tensor, conv_state: Tensor, out: Tensor
) -> None:
    """Apply the dynamic convolution and SiLU to a chunk; `conv_state` is read, not updated.

    Args:
        values: `[T, D]`; may be a slice of a wider matrix's columns.
        kernels: `[W, T, D]`, before their bias is added; tap W - 1 weighs the current token.
        bias: the kernels' bias, `[W, D]`.
        chunk_meta: the chunk's metadata.
        conv_state: the last inputs of each slot, `[S, D, W]`, newest last.
        out: `[T, D]`, overwritten.
    """
    for slot, _, count, offset in read_segments(chunk_meta):
        rows = slice(offset, offset + count)
        taps = kernels[:, rows].float().permute(1, 2, 0) + bias.float().T
        state = conv_state[slot : slot + 1].float()
        out[rows] = dynamic_conv(values[None, rows].float(), taps[None], state)[0][0]


def chunk_delta_reference(
    projected: Tensor,
    values: Tensor,
    decays: tuple[Tensor, Tensor],
    chunk_meta: Tensor,
    states: tuple[Tensor, Tensor],
    out: Tensor,
    sizes: JetSizes,
) -> None:
    """Apply the gated delta rule to a chunk and update the states of its slots in place.

    Args:
        projected: q | k | w1 | v | g | a | b before any activation, `[T, P]`.
        values: the outputs of the convolution, `[T, H * V]`.
        decays: `A_log` and `dt_bias`, each `[H]` float32.
        chunk_meta: the chunk's metadata, see `jet.ops.chunk_meta`.
        states: the convolution states `[S, H * V, W]` and the recurrent states `[S, H, K, V]` float32, for S
            slots.
        out: `[T, H * V]`, before the gated norm; rows of padding are not written.
        sizes: the sizes of the JetBlock.
    """
    log_decay_rate, dt_bias = decays
    conv_state, recurrent_state = states
    heads = (sizes.num_heads, -1)
    for slot, _, count, offset in read_segments(chunk_meta):
        rows = slice(offset, offset + count)
        q, k, _, raw, _, a, b = projected[None, rows].float().split(sizes.split_sizes, dim=2)
        g = -log_decay_rate.float().exp() * F.softplus(a + dt_bias.float())
        given = (F.silu(q).unflatten(2, heads), F.silu(k).unflatten(2, heads))
        v = values[None, rows].float().unflatten(2, heads)
        result, state = chunk_gated_delta_rule(*given, v, g, b.sigmoid(), recurrent_state[slot : slot + 1])
        out[rows] = result[0].flatten(1)
        recurrent_state[slot] = state[0]
        inputs = torch.cat([conv_state[slot], raw[0].T.to(conv_state.dtype)], dim=1)
        conv_state[slot] = inputs[:, -sizes.conv_size :]


def attend_pages_reference(
    projected: Tensor,
    frequencies: Tensor,
    chunk_meta: Tensor,
    page_table: Tensor,
    pages: Tensor,
    queries: Tensor,
    out: Tensor,
) -> None:
    """Attend from each token of a chunk to all tokens before it and itself. Writes `pages` and `out`.

    Args:
        projected: query heads, key heads, value heads, not yet rotated, `[T, (Hq + 2·Hkv)·D]`.
        frequencies: rotary frequencies, `[D / 2]` float32.
        chunk_meta: the chunk's metadata.
        page_table: `[slots, max_pages]` int32; all pages of the chunk must have been allocated.
        pages: `[P, 2, Hkv, PAGE, D]`; gets the chunk's keys and values.
        queries: `[T, Hq·D]`, scratch.
        out: `[T, Hq·D]`, overwritten.
    """
    for slot, start, count, offset in read_segments(chunk_meta):
        rows = slice(offset, offset + count)
        query, key, value = _heads(projected[rows], frequencies, start, pages.shape[2])
        write_pages(pages, page_table[slot], start, key.to(pages.dtype), value.to(pages.dtype))
        keys, values = gather_pages(pages, page_table[slot], start + count)
        out[rows] = _attend(query, keys, values, start + count)


def attend_window_reference(
    projected: Tensor,
    frequencies: Tensor,
    chunk_meta: Tensor,
    ring_keys: Tensor,
    ring_values: Tensor,
    window_buffer: Tensor,
    queries: Tensor,
    out: Tensor,
) -> None:
    """Attend from each token of a chunk to the window that ends with it. Writes the rings and `out`.

    Args:
        projected, frequencies, chunk_meta, queries, out: as in `attend_pages_reference`.
        ring_keys, ring_values: `[slots, Hkv, WINDOW, D]`, token t at `t % WINDOW`.
        window_buffer: `[2, Hkv, rows, D]`, scratch, with room for a window before each segment.
    """
    for slot, start, count, offset in read_segments(chunk_meta):
        rows = slice(offset, offset + count)
        query, *new = _heads(projected[rows], frequencies, start, ring_keys.shape[1])
        seen = []
        for ring, states in zip((ring_keys[slot], ring_values[slot]), new, strict=True):
            states = states.to(ring.dtype)
            seen.append(torch.cat([gather_window(ring, start), states], dim=1))
            write_window(ring, start, states)
        keys, values = seen
        out[rows] = _attend(query, keys, values, ring_keys.shape[2])


def _heads(
    projected: Tensor, frequencies: Tensor, start: int, kv_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return rotated queries `[Hkv, Hq / Hkv, T, D]` and keys `[Hkv, T, D]`, and values `[Hkv, T, D]`."""
    heads = projected.float().unflatten(1, (-1, 2 * len(frequencies))).transpose(0, 1)
    positions = torch.arange(start, start + len(projected), device=projected.device)
    angles = positions[:, None] * torch.cat([frequencies, frequencies])
    first, second = heads.chunk(2, dim=-1)
    rotated = heads * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()
    queries = rotated[: -2 * kv_heads].unflatten(0, (kv_heads, -1))
    return queries, rotated[-2 * kv_heads : -kv_heads], heads[-kv_heads:]


def _attend(queries: Tensor, keys: Tensor, values: Tensor, window: int) -> Tensor:
    """Attend from each of the last T of S tokens to itself and at most `window` - 1 tokens before it.

    Args:
        queries: `[Hkv, Hq / Hkv, T, D]` float32.
        keys, values: `[Hkv, S, D]`.
        window: the most tokens that a query sees.

    Returns:
        `[T, Hq·D]` float32.
    """
    new, seen = queries.shape[2], keys.shape[1]
    scores = queries @ keys.float()[:, None].transpose(2, 3) * queries.shape[-1] ** -0.5
    behind = torch.arange(seen - new, seen, device=keys.device)[:, None] - torch.arange(
        seen, device=keys.device
    )
    weights = scores.masked_fill((behind < 0) | (behind >= window), -torch.inf).softmax(-1)
    mixed: Tensor = weights @ values.float()[:, None]
    return mixed.flatten(0, 1).transpose(0, 1).flatten(1)
