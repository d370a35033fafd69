# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# mypy: disable-error-code="assignment"
"""The decode step's operations for many rows: products on tensor cores, by our kernel or cuBLAS.

With many rows a product is a product of matrices. Its inputs are then rounded to the weights' type, as the
network's forward rounds them; sums stay in float32. Quantised weights are turned into numbers first, one
matrix at a time or a part of a large one, in memory that all share. The jet step does not read the kernel
generator's weight once a row, but is given the kernels of all rows, which are one product too.

The functions take the same arguments as their torch twins in `jet.ops.reference`, whose results they give but
for that rounding, and before them the memory for what is between two kernels. They return what does it
again and again on the same tensors.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from jet.ops.quantization import QuantizedTensor, Weight, row_ranges
from jet.ops.reference import JetSizes
from jet.ops.triton import skinny
from jet.ops.triton.common import silu
from jet.ops.triton.jet_step import EPS, _keys_in_a_tile, _load_state, _recall, _softplus

ROWS = 64  # value channels of a program of the jet step, which is then as wide as memory likes to be read
BLOCK = 1024  # numbers that a program activates
MOST_NUMBERS = 2**25  # weights that are turned into numbers at once
# Rows up to which our products take less time than cuBLAS's: with the activation as a part, and without.
MOST_GATED, MOST_SKINNY = 64, 32

BoundOp = Callable[[], None]


class Memory:
    """What lies between two kernels, for operations that run one after the other: all layers share it."""

    def __init__(self) -> None:
        self._tensors: dict[tuple[object, ...], Tensor] = {}
        self.meeting = skinny.Meeting()  # of our own products

    def input(self, weight: Weight, rows: int) -> Tensor:
        """What a weight is multiplied with, in its type."""
        return self._get("input", rows, weight.shape[1], weight.dtype, weight.device)

    def output(self, weight: Weight, rows: int) -> Tensor:
        """What comes out, in float32."""
        return self._get("output", rows, weight.shape[0], torch.float32, weight.device)

    def numbers(self, weight: QuantizedTensor) -> Tensor:
        """Some rows of a quantised weight, in its type: the same memory for all."""
        size = max(MOST_NUMBERS, weight.columns)
        held = self._get("numbers", 1, size, weight.dtype, weight.device)[0]
        return held[: weight.numel()].view(weight.shape)

    def _get(self, use: str, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        key = (use, rows, columns, dtype, device)
        if key not in self._tensors:
            self._tensors[key] = torch.empty(rows, columns, dtype=dtype, device=device)
        return self._tensors[key]


def norm_linear(
    memory: Memory,
    x: Tensor,
    norm_weight: Tensor,
    eps: float,
    weight: Weight,
    bias: Tensor | None,
    out: Tensor,
) -> BoundOp:
    """Twin of `norm_linear_reference`."""
    normed = memory.input(weight, len(x))
    multiply = product(memory, normed, weight, out)

    def run() -> None:
        _normalise(x, norm_weight, eps, normed)
        multiply()
        if bias is not None:
            out.add_(bias)

    return run


def norm_swiglu(
    memory: Memory, x: Tensor, norm_weight: Tensor, eps: float, gate_up: Weight, out: Tensor
) -> BoundOp:
    """Twin of `norm_swiglu_reference`."""
    normed = memory.input(gate_up, len(x))
    multiply = _gated_product(memory, normed, gate_up, out)

    def run() -> None:
        _normalise(x, norm_weight, eps, normed)
        multiply()

    return run


def _gated_product(memory: Memory, given: Tensor, gate_up: Weight, out: Tensor) -> BoundOp:
    """`out = silu(g) * u` for `g | u = given @ gate_up.T`."""
    if isinstance(gate_up, Tensor) and _is_skinny(given, MOST_GATED):
        return skinny.swiglu(given, gate_up, out, memory.meeting)
    rows, size = out.shape
    both = memory.output(gate_up, rows)
    multiply = product(memory, given, gate_up, both)

    def run() -> None:
        multiply()
        _swiglu_kernel[(triton.cdiv(size, BLOCK), rows)](both, out, SIZE=size, BLOCK=BLOCK)

    return run


def linear_add(memory: Memory, h: Tensor, weight: Weight, x: Tensor) -> BoundOp:
    """Twin of `linear_add_reference`; fastest where `h` has the type of the weight."""
    if h.dtype == weight.dtype:
        return product(memory, h, weight, x, add=True)
    given = memory.input(weight, len(h))
    multiply = product(memory, given, weight, x, add=True)

    def run() -> None:
        given.copy_(h)
        multiply()

    return run


def gated_norm_linear_add(
    memory: Memory, o: Tensor, gate: Tensor, norm_weight: Tensor, eps: float, weight: Weight, x: Tensor
) -> BoundOp:
    """Twin of `gated_norm_linear_add_reference`."""
    size = norm_weight.shape[0]
    heads, padded = o.shape[1] // size, triton.next_power_of_2(size)
    given = memory.input(weight, len(o))
    multiply = product(memory, given, weight, x, add=True)

    def run() -> None:
        _gated_norm_kernel[(heads, len(o))](
            o, gate, gate.stride(0), norm_weight, eps, given, HEADS=heads, SIZE=size, PADDED=padded
        )
        multiply()

    return run


def jet_step(
    memory: Memory,
    projected: Tensor,
    kernels_weight: Weight,
    kernels_bias: Tensor,
    log_decay_rate: Tensor,
    dt_bias: Tensor,
    slots: Tensor,
    conv_state: Tensor,
    recurrent_state: Tensor,
    out: Tensor,
    sizes: JetSizes,
) -> BoundOp:
    """Twin of `jet_step_reference`."""
    sizes.check(projected, kernels_weight, conv_state, recurrent_state, out)
    batch = len(projected)
    hidden, kernels = memory.input(kernels_weight, batch), memory.output(kernels_weight, batch)
    multiply = product(memory, hidden, kernels_weight, kernels)
    w1 = projected[:, 2 * sizes.num_heads * sizes.head_k_dim :]
    rows = min(ROWS, triton.next_power_of_2(sizes.head_v_dim))

    def run() -> None:
        _silu_kernel[(triton.cdiv(sizes.generator_dim, BLOCK), batch)](
            w1, w1.stride(0), hidden, SIZE=sizes.generator_dim, BLOCK=BLOCK
        )
        multiply()
        _jet_step_kernel[(triton.cdiv(sizes.head_v_dim, rows), sizes.num_heads, batch)](
            projected,
            projected.stride(0),
            kernels,
            kernels_bias,
            log_decay_rate,
            dt_bias,
            slots,
            conv_state,
            recurrent_state,
            out,
            sizes.head_k_dim**-0.5,
            HEADS=sizes.num_heads,
            KEY=sizes.head_k_dim,
            VALUE=sizes.head_v_dim,
            GENERATOR=sizes.generator_dim,
            WIDTH=sizes.conv_size,
            ROWS=rows,
            KEYS=_keys_in_a_tile(sizes.head_k_dim),
        )

    return run


def product(memory: Memory, given: Tensor, weight: Weight, out: Tensor, add: bool = False) -> BoundOp:
    """`out = given @ weight.T`, or with `add` that much more.

    Args:
        memory: for quantised weights, and for sums of several programs.
        given: `[B, C]` in the type of `weight`.
        weight: `[N, C]`.
        out: `[B, N]` float32.
        add: to `out`, within the product: cuBLAS starts its sums from what is there.
    """
    if isinstance(weight, QuantizedTensor):
        return _quantized_product(memory, given, weight, out, add)
    if _is_skinny(given, MOST_SKINNY):
        return skinny.product(given, weight, out, add, memory.meeting)
    turned, beta = weight.T, int(add)

    def run() -> None:
        if weight.dtype == torch.float32:
            torch.addmm(out, given, turned, beta=beta, out=out)
        elif weight.is_cuda:
            torch.ops.aten.addmm.dtype_out(out, given, turned, torch.float32, beta=beta, out=out)
        else:
            torch.addmm(out, given.float(), turned.float(), beta=beta, out=out)

    return run


def _is_skinny(given: Tensor, most: int) -> bool:
    return given.is_cuda and given.dtype != torch.float32 and len(given) <= most


def _quantized_product(
    memory: Memory, given: Tensor, weight: QuantizedTensor, out: Tensor, add: bool
) -> BoundOp:
    """The same; of more weights than `MOST_NUMBERS` a part after the other."""
    ranges = list(row_ranges((len(weight), weight.columns), MOST_NUMBERS))
    parts = [weight[begin:end] for begin, end in ranges]
    places = [memory.numbers(part) for part in parts]
    whole = len(parts) == 1
    results = [out if whole else memory.output(part, len(given)) for part in parts]
    products = [
        product(memory, given, place, result, add and whole)
        for place, result in zip(places, results, strict=True)
    ]

    def run() -> None:
        for (begin, end), part, place, result, multiply in zip(
            ranges, parts, places, results, products, strict=True
        ):
            part.dequantize(out=place)
            multiply()
            if not whole:
                columns = out[:, begin:end]
                columns.add_(result) if add else columns.copy_(result)

    return run


def _normalise(x: Tensor, norm_weight: Tensor, eps: float, out: Tensor) -> None:
    size = x.shape[1]
    _norm_kernel[(len(x),)](x, norm_weight, eps, out, SIZE=size, PADDED=triton.next_power_of_2(size))


@triton.jit
def _norm_kernel(x, norm_weight, eps, out, SIZE: tl.constexpr, PADDED: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * SIZE
    column = tl.arange(0, PADDED)
    inside = column < SIZE
    values = tl.load(x + row + column, mask=inside, other=0.0)
    scale = tl.load(norm_weight + column, mask=inside, other=0.0).to(tl.float32)
    normed = values * tl.rsqrt(tl.sum(values * values, 0) / SIZE + eps) * scale
    tl.store(out + row + column, normed.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gated_norm_kernel(
    o, gate, gate_stride, norm_weight, eps, out,
    HEADS: tl.constexpr, SIZE: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    head, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    column = tl.arange(0, PADDED)
    inside = column < SIZE
    place = row * (HEADS * SIZE) + head * SIZE + column
    values = tl.load(o + place, mask=inside, other=0.0)
    gates = tl.load(gate + row * gate_stride + head * SIZE + column, mask=inside, other=0.0)
    scale = tl.load(norm_weight + column, mask=inside, other=0.0).to(tl.float32)
    normed = values * tl.rsqrt(tl.sum(values * values, 0) / SIZE + eps) * scale * silu(gates)
    tl.store(out + place, normed.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu_kernel(both, out, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < SIZE
    gate = tl.load(both + row * (2 * SIZE) + column, mask=inside, other=0.0)
    up = tl.load(both + row * (2 * SIZE) + SIZE + column, mask=inside, other=0.0)
    gated = silu(gate) * up
    tl.store(out + row * SIZE + column, gated.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _silu_kernel(x, x_stride, out, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < SIZE
    values = silu(tl.load(x + row * x_stride + column, mask=inside, other=0.0))
    tl.store(out + row * SIZE + column, values.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _jet_step_kernel(
    projected, projected_stride, kernels, kernels_bias, log_decay_rate, dt_bias, slots,
    conv_state, recurrent_state, out, scale,
    HEADS: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr, GENERATOR: tl.constexpr,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Some value channels of one head of one row; see `jet.ops.triton.jet_step` for the sums."""
    TILES: tl.constexpr = (KEY + KEYS - 1) // KEYS
    head, b = tl.program_id(1), tl.program_id(2).to(tl.int64)
    column = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mine = column < VALUE
    channel = head * VALUE + tl.minimum(column, VALUE - 1)
    slot = tl.load(slots + b).to(tl.int64)
    state = recurrent_state + (slot * HEADS + head) * (KEY * VALUE) + column
    states = _load_state(state, mine, KEY, VALUE, KEYS)

    # q | k | w1 | v | g | a | b
    query = projected + b * projected_stride
    value = query + 2 * HEADS * KEY + GENERATOR
    gates = value + 2 * HEADS * VALUE + head
    queries = ()
    keys = ()
    for t in tl.static_range(TILES):
        row = t * KEYS + tl.arange(0, KEYS)
        inside = row < KEY
        queries = queries + (silu(tl.load(query + head * KEY + row, mask=inside, other=0.0)),)  # noqa: RUF005
        key = tl.load(query + (HEADS + head) * KEY + row, mask=inside, other=0.0)
        keys = keys + (silu(key),)  # noqa: RUF005
    rate = tl.exp(tl.load(log_decay_rate + head).to(tl.float32))
    decay = tl.exp(-rate * _softplus(tl.load(gates) + tl.load(dt_bias + head).to(tl.float32)))
    beta = 1.0 / (1.0 + tl.exp(-tl.load(gates + HEADS)))

    memory = conv_state + (slot * (HEADS * VALUE) + channel) * WIDTH
    taps = kernels + b * (HEADS * VALUE * WIDTH) + channel * WIDTH
    window = ()
    convolved = tl.zeros([ROWS], tl.float32)
    for w in tl.static_range(WIDTH):
        if w == WIDTH - 1:  # the newest counts as it will be remembered
            one = tl.load(value + channel).to(conv_state.dtype.element_ty)
        else:
            one = tl.load(memory + w + 1)
        window = window + (one,)  # noqa: RUF005
        bias = tl.load(kernels_bias + channel * WIDTH + w).to(tl.float32)
        convolved += one.to(tl.float32) * (tl.load(taps + w) + bias)

    recalled, answered, kk, qq, kq = _recall(states, keys, queries, ROWS, TILES, KEYS)
    k_scale = tl.rsqrt(kk + EPS)
    error = beta * (silu(convolved) - decay * k_scale * recalled)
    result = tl.rsqrt(qq + EPS) * scale * (decay * answered + k_scale * kq * error)

    # A thread may hold a copy of what another one writes: all have read before the first writes.
    tl.debug_barrier()
    tl.store(out + b * (HEADS * VALUE) + channel, result, mask=mine)
    for w in tl.static_range(WIDTH):
        tl.store(memory + w, window[w], mask=mine)
    for t in tl.static_range(TILES):
        row = (t * KEYS + tl.arange(0, KEYS))[:, None]
        new = decay * states[t] + (k_scale * keys[t])[:, None] * error[None, :]
        tl.store(state[None, :] + row * VALUE, new, mask=(row < KEY) & mine[None, :])
