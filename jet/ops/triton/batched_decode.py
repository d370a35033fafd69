# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# mypy: disable-error-code="assignment"
"""The decode step's operations for many rows: matrix products on tensor cores, by `skinny` or cuBLAS.

Inputs of products are rounded to the weights' type, as in the network's forward; sums are float32. Quantized
weights are dequantized first, a matrix or a part of a large one at a time, into memory that all products
share. The convolution kernels of all rows are one product, too, whose result the jet step reads.

The functions take a workspace, with the buffers between kernels, and then the arguments of their definitions
in `jet.ops.reference`. They return an operation bound to these tensors, to be called repeatedly.
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
from jet.ops.triton.jet_step import EPS, _load_state, _softplus, _state_products, block_key

BLOCK_V = 64  # value channels of a program of the jet step, which is then as wide as memory likes to be read
BLOCK = 1024  # numbers that a program activates
MAX_DEQUANTIZED = 2**25  # weights that are turned into numbers at once
# Rows up to which our products take less time than cuBLAS's: with the activation as a part, and without.
MAX_SKINNY_GATED_BATCH, MAX_SKINNY_BATCH = 64, 32

BoundOp = Callable[[], None]


class Workspace:
    """Buffers between kernels, shared by all layers, since layers run one after the other."""

    def __init__(self) -> None:
        self._tensors: dict[tuple[object, ...], Tensor] = {}
        self.split_k_workspace = skinny.SplitKWorkspace()  # of our own products

    def input(self, weight: Weight, rows: int) -> Tensor:
        """Return the buffer for a product's input, `[rows, C]` in the dtype of the weight `[N, C]`."""
        return self._get("input", rows, weight.shape[1], weight.dtype, weight.device)

    def output(self, weight: Weight, rows: int) -> Tensor:
        """Return the buffer for a product's output, `[rows, N]` float32 for a weight `[N, C]`."""
        return self._get("output", rows, weight.shape[0], torch.float32, weight.device)

    def dequantized(self, weight: QuantizedTensor) -> Tensor:
        """Return the buffer for a weight's dequantized values, in the weight's shape and dtype.

        All weights share the memory. The caller writes the values.
        """
        size = max(MAX_DEQUANTIZED, weight.columns)
        buffer = self._get("dequantized", 1, size, weight.dtype, weight.device)[0]
        return buffer[: weight.numel()].view(weight.shape)

    def _get(self, use: str, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        key = (use, rows, columns, dtype, device)
        if key not in self._tensors:
            self._tensors[key] = torch.empty(rows, columns, dtype=dtype, device=device)
        return self._tensors[key]


def norm_linear(
    workspace: Workspace,
    x: Tensor,
    norm_weight: Tensor,
    eps: float,
    weight: Weight,
    bias: Tensor | None,
    out: Tensor,
) -> BoundOp:
    """Bind the operation that `norm_linear_reference` defines."""
    normed = workspace.input(weight, len(x))
    multiply = matmul(workspace, normed, weight, out)

    def run() -> None:
        _rms_norm(x, norm_weight, eps, normed)
        multiply()
        if bias is not None:
            out.add_(bias)

    return run


def norm_swiglu(
    workspace: Workspace, x: Tensor, norm_weight: Tensor, eps: float, gate_up: Weight, out: Tensor
) -> BoundOp:
    """Bind the operation that `norm_swiglu_reference` defines."""
    normed = workspace.input(gate_up, len(x))
    multiply = _gated_matmul(workspace, normed, gate_up, out)

    def run() -> None:
        _rms_norm(x, norm_weight, eps, normed)
        multiply()

    return run


def _gated_matmul(workspace: Workspace, x: Tensor, gate_up: Weight, out: Tensor) -> BoundOp:
    """Bind `out = silu(g) * u` for `g | u = x @ gate_up.T`."""
    if isinstance(gate_up, Tensor) and _is_skinny(x, MAX_SKINNY_GATED_BATCH):
        return skinny.swiglu(x, gate_up, out, workspace.split_k_workspace)
    rows, size = out.shape
    both = workspace.output(gate_up, rows)
    multiply = matmul(workspace, x, gate_up, both)

    def run() -> None:
        multiply()
        _swiglu_kernel[(triton.cdiv(size, BLOCK), rows)](both, out, SIZE=size, BLOCK=BLOCK)

    return run


def linear_add(workspace: Workspace, h: Tensor, weight: Weight, x: Tensor) -> BoundOp:
    """Bind the operation that `linear_add_reference` defines; fastest if `h` has the weight's dtype."""
    if h.dtype == weight.dtype:
        return matmul(workspace, h, weight, x, add=True)
    rounded = workspace.input(weight, len(h))
    multiply = matmul(workspace, rounded, weight, x, add=True)

    def run() -> None:
        rounded.copy_(h)
        multiply()

    return run


def gated_norm_linear_add(
    workspace: Workspace, o: Tensor, gate: Tensor, norm_weight: Tensor, eps: float, weight: Weight, x: Tensor
) -> BoundOp:
    """Bind the operation that `gated_norm_linear_add_reference` defines."""
    size = norm_weight.shape[0]
    heads, padded = o.shape[1] // size, triton.next_power_of_2(size)
    normed = workspace.input(weight, len(o))
    multiply = matmul(workspace, normed, weight, x, add=True)

    def run() -> None:
        _gated_norm_kernel[(heads, len(o))](
            o, gate, gate.stride(0), norm_weight, eps, normed, HEADS=heads, SIZE=size, PADDED=padded
        )
        multiply()

    return run


def jet_step(
    workspace: Workspace,
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
    """Bind the operation that `jet_step_reference` defines."""
    sizes.check(projected, kernels_weight, conv_state, recurrent_state, out)
    batch = len(projected)
    hidden, kernels = workspace.input(kernels_weight, batch), workspace.output(kernels_weight, batch)
    multiply = matmul(workspace, hidden, kernels_weight, kernels)
    w1 = projected[:, 2 * sizes.num_heads * sizes.head_k_dim :]
    rows = min(BLOCK_V, triton.next_power_of_2(sizes.head_v_dim))

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
            HEAD_K_DIM=sizes.head_k_dim,
            HEAD_V_DIM=sizes.head_v_dim,
            GENERATOR_DIM=sizes.generator_dim,
            CONV_SIZE=sizes.conv_size,
            BLOCK_V=rows,
            BLOCK_KEY=block_key(sizes.head_k_dim),
        )

    return run


def matmul(workspace: Workspace, x: Tensor, weight: Weight, out: Tensor, add: bool = False) -> BoundOp:
    """Bind `out = x @ weight.T`, or with `add` `out += x @ weight.T`.

    Args:
        workspace: buffers for dequantized weights and for split-K sums.
        x: `[B, C]` in the type of `weight`.
        weight: `[N, C]`.
        out: `[B, N]` float32.
        add: whether to add to the values in `out`.
    """
    if isinstance(weight, QuantizedTensor):
        return _dequantized_matmul(workspace, x, weight, out, add)
    if _is_skinny(x, MAX_SKINNY_BATCH):
        return skinny.matmul(x, weight, out, add, workspace.split_k_workspace)
    weight_t, beta = weight.T, int(add)

    def run() -> None:
        if weight.is_meta:  # nothing to multiply, and not every PyTorch knows this product's shapes
            return
        if weight.dtype == torch.float32:
            torch.addmm(out, x, weight_t, beta=beta, out=out)
        elif weight.device.type != "cpu":
            torch.ops.aten.addmm.dtype_out(out, x, weight_t, torch.float32, beta=beta, out=out)
        else:
            torch.addmm(out, x.float(), weight_t.float(), beta=beta, out=out)

    return run


def _is_skinny(x: Tensor, max_batch: int) -> bool:
    return x.device.type != "cpu" and x.dtype != torch.float32 and len(x) <= max_batch


def _dequantized_matmul(
    workspace: Workspace, x: Tensor, weight: QuantizedTensor, out: Tensor, add: bool
) -> BoundOp:
    """Bind a product with a quantized weight, dequantized in parts of up to `MAX_DEQUANTIZED` values."""
    ranges = list(row_ranges((len(weight), weight.columns), MAX_DEQUANTIZED))
    parts = [weight[begin:end] for begin, end in ranges]
    places = [workspace.dequantized(part) for part in parts]
    whole = len(parts) == 1
    results = [out if whole else workspace.output(part, len(x)) for part in parts]
    products = [
        matmul(workspace, x, place, result, add and whole)
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


def _rms_norm(x: Tensor, norm_weight: Tensor, eps: float, out: Tensor) -> None:
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
    HEADS: tl.constexpr, HEAD_K_DIM: tl.constexpr, HEAD_V_DIM: tl.constexpr, GENERATOR_DIM: tl.constexpr,
    CONV_SIZE: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_KEY: tl.constexpr,
):  # fmt: skip
    """Update some value channels of one head of one row; see `jet.ops.triton.jet_step` for the formulas."""
    TILES: tl.constexpr = (HEAD_K_DIM + BLOCK_KEY - 1) // BLOCK_KEY
    head, b = tl.program_id(1), tl.program_id(2).to(tl.int64)
    column = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    in_head = column < HEAD_V_DIM
    channel = head * HEAD_V_DIM + tl.minimum(column, HEAD_V_DIM - 1)
    slot = tl.load(slots + b).to(tl.int64)
    state = recurrent_state + (slot * HEADS + head) * (HEAD_K_DIM * HEAD_V_DIM) + column
    states = _load_state(state, in_head, HEAD_K_DIM, HEAD_V_DIM, BLOCK_KEY)

    # q | k | w1 | v | g | a | b
    query = projected + b * projected_stride
    value = query + 2 * HEADS * HEAD_K_DIM + GENERATOR_DIM
    gates = value + 2 * HEADS * HEAD_V_DIM + head
    queries = ()
    keys = ()
    for t in tl.static_range(TILES):
        row = t * BLOCK_KEY + tl.arange(0, BLOCK_KEY)
        inside = row < HEAD_K_DIM
        queries = queries + (silu(tl.load(query + head * HEAD_K_DIM + row, mask=inside, other=0.0)),)  # noqa: RUF005
        key = tl.load(query + (HEADS + head) * HEAD_K_DIM + row, mask=inside, other=0.0)
        keys = keys + (silu(key),)  # noqa: RUF005
    rate = tl.exp(tl.load(log_decay_rate + head).to(tl.float32))
    decay = tl.exp(-rate * _softplus(tl.load(gates) + tl.load(dt_bias + head).to(tl.float32)))
    beta = 1.0 / (1.0 + tl.exp(-tl.load(gates + HEADS)))

    conv_ptr = conv_state + (slot * (HEADS * HEAD_V_DIM) + channel) * CONV_SIZE
    taps = kernels + b * (HEADS * HEAD_V_DIM * CONV_SIZE) + channel * CONV_SIZE
    window = ()
    convolved = tl.zeros([BLOCK_V], tl.float32)
    for w in tl.static_range(CONV_SIZE):
        if w == CONV_SIZE - 1:  # the newest counts as it will be remembered
            one = tl.load(value + channel).to(conv_state.dtype.element_ty)
        else:
            one = tl.load(conv_ptr + w + 1)
        window = window + (one,)  # noqa: RUF005
        bias = tl.load(kernels_bias + channel * CONV_SIZE + w).to(tl.float32)
        convolved += one.to(tl.float32) * (tl.load(taps + w) + bias)

    state_key, state_query, kk, qq, kq = _state_products(states, keys, queries, BLOCK_V, TILES, BLOCK_KEY)
    k_scale = tl.rsqrt(kk + EPS)
    error = beta * (silu(convolved) - decay * k_scale * state_key)
    result = tl.rsqrt(qq + EPS) * scale * (decay * state_query + k_scale * kq * error)

    # A thread may hold a copy of what another one writes: all have read before the first writes.
    tl.debug_barrier()
    tl.store(out + b * (HEADS * HEAD_V_DIM) + channel, result, mask=in_head)
    for w in tl.static_range(CONV_SIZE):
        tl.store(conv_ptr + w, window[w], mask=in_head)
    for t in tl.static_range(TILES):
        row = (t * BLOCK_KEY + tl.arange(0, BLOCK_KEY))[:, None]
        new = decay * states[t] + (k_scale * keys[t])[:, None] * error[None, :]
        tl.store(state[None, :] + row * HEAD_V_DIM, new, mask=(row < HEAD_K_DIM) & in_head[None, :])
