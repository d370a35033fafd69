"""A JetBlock's state update for one token: kernel generator, dynamic convolution, gated delta rule."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from jet.ops.numba import kernels
from jet.ops.numba.bound_operation import BindableOp, BoundOp, array, constant, matrix
from jet.ops.quantization import Weight
from jet.ops.reference import JetSizes


@BindableOp
def jet_step(
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
    """Compute the same as `jet_step_reference`; a `BindableOp`."""
    sizes.check(projected, kernels_weight, conv_state, recurrent_state, out)
    return partial(
        kernels.jet_step,
        array(projected),
        matrix(kernels_weight),
        constant(kernels_bias),
        constant(log_decay_rate),
        constant(dt_bias),
        array(slots),
        array(conv_state),
        array(recurrent_state),
        array(out),
        sizes.generator_dim,
    )
