"""Embedding, and matrix-vector products fused with the norm, activation or residual next to them.

Each function has the arguments of its definition in `jet.ops.reference` and is a `BindableOp`: its `bind`
prepares the call for tensors whose memory never moves.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from jet.ops.numba import kernels
from jet.ops.numba.bound_operation import BindableOp, BoundOp, array, constant, matrix
from jet.ops.quantization import Weight


@BindableOp
def norm_linear(
    x: Tensor, norm_weight: Tensor, eps: float, weight: Weight, bias: Tensor | None, out: Tensor
) -> BoundOp:
    """Compute the same as `norm_linear_reference`; a `BindableOp`."""
    _check(weight, x, out)
    scale, added = constant(norm_weight), constant(bias)
    return partial(kernels.norm_linear, array(x), scale, eps, matrix(weight), added, array(out))


@BindableOp
def norm_swiglu(x: Tensor, norm_weight: Tensor, eps: float, gate_up: Weight, out: Tensor) -> BoundOp:
    """Compute the same as `norm_swiglu_reference`; a `BindableOp`."""
    _check(gate_up, x, out, parts=2)
    return partial(kernels.norm_swiglu, array(x), constant(norm_weight), eps, matrix(gate_up), array(out))


@BindableOp
def linear_add(h: Tensor, weight: Weight, x: Tensor) -> BoundOp:
    """Compute the same as `linear_add_reference`; a `BindableOp`."""
    _check(weight, h, x)
    return partial(kernels.linear_add, array(h), matrix(weight), array(x))


@BindableOp
def gated_norm_linear_add(
    o: Tensor, gate: Tensor, norm_weight: Tensor, eps: float, weight: Weight, x: Tensor
) -> BoundOp:
    """Compute the same as `gated_norm_linear_add_reference`; a `BindableOp`."""
    _check(weight, o, x)
    size, stride = norm_weight.shape[0], gate.stride(0)
    if o.shape[1] % size or gate.shape != o.shape or gate.stride(1) != 1:
        raise ValueError(f"gate {list(gate.shape)} must be like o {list(o.shape)}, in heads of {size}.")
    flat = gate.as_strided(((gate.shape[0] - 1) * stride + gate.shape[1],), (1,))
    scale = constant(norm_weight)
    return partial(
        kernels.gated_norm_linear_add, array(o), array(flat), stride, scale, eps, matrix(weight), array(x)
    )


@BindableOp
def embed(
    token: Tensor, embedding: Weight, position: Tensor, inv_freq: Tensor, x: Tensor, cos: Tensor, sin: Tensor
) -> BoundOp:
    """Compute the same as `embed_reference`; a `BindableOp`."""
    frequencies = constant(inv_freq)
    return partial(
        kernels.embed,
        array(token),
        matrix(embedding),
        array(position),
        frequencies,
        array(x),
        array(cos),
        array(sin),
    )


def _check(weight: Weight, given: Tensor, out: Tensor, parts: int = 1) -> None:
    """Raise ValueError unless a product's weight, input and output have matching shapes.

    `parts`: the number of weight rows for each output.
    """
    n, c = weight.shape[0] // parts, weight.shape[1]
    if given.shape[1] != c or out.shape != (given.shape[0], n) or weight.shape[0] != n * parts:
        raise ValueError(
            f"weight {list(weight.shape)}, input {list(given.shape)} and output {list(out.shape)} "
            "must fit each other."
        )
