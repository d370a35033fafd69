"""OpBackend: implementations of the decode step's fused operations, for GPUs and CPUs.

Plain torch (`jet.ops.reference`, `jet.ops.attention`) defines each operation; there are also Triton kernels
for CUDA and compiled kernels for CPUs. All work in place on tensors whose memory never moves. So an operation
is bound to its tensors once, which gives a function without arguments, and a step is a list of such
functions.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from jet.ops import attention, reference
from jet.ops.gpu_target import gpu_target
from jet.ops.quantization import QuantizedTensor, Weight
from jet.ops.reference import JetSizes
from jet.ops.sampling import Drawer

if TYPE_CHECKING:
    from jet.ops.triton.decode_attention import AttentionScratch
    from jet.ops.triton.fused_skinny import Workspace as FusedWorkspace

log = logging.getLogger(__name__)

MIN_FUSED_BATCH, MAX_FUSED_BATCH = 2, 8  # rows that fused products on tensor cores take, in bfloat16
TENSOR_CORE_BATCH = 8  # rows from which tensor cores multiply
MAX_COPIED_BYTES = 2**28  # bytes: larger matrices are not copied, which would take half as much memory again

BoundOp = Callable[[], None]
OpBinder = Callable[..., BoundOp]  # takes the operation's arguments
# For so many numbers, the hidden size, a network's type and the scheme of its weights: columns and type.
MlpHiddenFormat = Callable[[int, int, torch.dtype, "str | None"], tuple[int, torch.dtype]]


class JetBlockOps(NamedTuple):
    """The three bound operations of a jet layer, to be called in this order.

    The backend may allocate buffers for results that pass from one operation to the next.
    """

    project_in: BoundOp
    step: BoundOp
    project_out: BoundOp


class JetBlockTensors(NamedTuple):
    """Tensors of a jet layer; shapes as in `jet.ops.reference`."""

    x: Tensor
    norm: tuple[Tensor, float]  # weight and epsilon
    weight: Weight  # merged projections
    projected: Tensor
    generator: tuple[Weight, Tensor]  # the kernel generator's second weight and bias
    decays: tuple[Tensor, Tensor]  # log decay rate and dt bias
    slots: Tensor
    states: tuple[Tensor, Tensor]  # of convolution and recurrence
    out: Tensor
    sizes: JetSizes
    out_norm: tuple[Tensor, float]
    output: Weight


JetBlockBinder = Callable[[JetBlockTensors], JetBlockOps]


@dataclass(frozen=True)
class OpBackend:
    """One implementation of the decode step's fused operations.

    Fields that are not listed below bind the operation of their name: they take the arguments of its
    definition in `jet.ops.reference` or `jet.ops.attention`, and return a function without arguments.

    Attributes:
        name: the implementation's name, as shown to users.
        mlp_hidden_format: returns the number of columns and the dtype of the MLP's hidden values.
        prepare_weight: returns a matrix, or a copy of it, in the layout that products read fastest.
        with_prefetch: returns a bound operation that also prefetches a tensor of the next operation.
        jet_block: binds the three operations of a jet layer to its tensors.
        blocked: whether quantized weights are read fastest in blocks, see `jet.ops.blocked`.
    """

    name: str
    mlp_hidden_format: MlpHiddenFormat
    prepare_weight: Callable[[Weight], Weight]
    with_prefetch: Callable[[BoundOp, Tensor], BoundOp]
    embed: OpBinder
    norm_linear: OpBinder
    norm_swiglu: OpBinder
    linear_add: OpBinder
    jet_block: JetBlockBinder
    attend_pages: OpBinder
    attend_window: OpBinder
    blocked: bool = False


def reference_backend() -> OpBackend:
    """Return the implementation in plain torch, for any device."""
    return OpBackend(
        name="torch",
        mlp_hidden_format=_float32_hidden,
        prepare_weight=_unchanged,
        with_prefetch=_no_prefetch,
        embed=partial(partial, reference.embed_reference),
        norm_linear=partial(partial, reference.norm_linear_reference),
        norm_swiglu=partial(partial, reference.norm_swiglu_reference),
        linear_add=partial(partial, reference.linear_add_reference),
        jet_block=partial(
            _unfused_jet_block,
            partial(partial, reference.norm_linear_reference),
            partial(partial, reference.jet_step_reference),
            partial(partial, reference.gated_norm_linear_add_reference),
        ),
        attend_pages=partial(partial, attention.attend_pages_reference),
        attend_window=partial(partial, attention.attend_window_reference),
    )


def numba_backend(threads: int = 1, in_order: bool = False) -> OpBackend:
    """Return the kernels compiled by numba for this CPU; plain torch if numba is missing or fails.

    Args:
        threads: the most threads of an operation.
        in_order: whether the rows are successive tokens of one sequence. Plain torch does not support this.
    """
    if importlib.util.find_spec("numba") is None:
        return reference_backend()
    try:
        from jet.ops.numba import matvec, paged_attention, threaded_ops
    except Exception as error:  # another numpy than numba was made for, an LLVM that does not load
        log.warning("numba cannot be used: plain PyTorch decodes, slower. (%s)", error)
        return reference_backend()
    layers = threaded_ops.Layers(threads, in_order)
    return OpBackend(
        name=threaded_ops.describe(threads),
        mlp_hidden_format=_float32_hidden,
        prepare_weight=_as_bfloat16_if_exact,
        with_prefetch=_no_prefetch,
        embed=matvec.embed.bind,
        norm_linear=layers.norm_linear,
        norm_swiglu=layers.norm_swiglu,
        linear_add=layers.linear_add,
        jet_block=partial(
            _unfused_jet_block, layers.norm_linear, layers.jet_step, layers.gated_norm_linear_add
        ),
        attend_pages=paged_attention.attend_pages.bind,
        attend_window=paged_attention.attend_window.bind,
        blocked=True,
    )


def _unfused_jet_block(
    norm_linear: OpBinder, jet_step: OpBinder, gated_norm_linear_add: OpBinder, jet: JetBlockTensors
) -> JetBlockOps:
    """Bind a jet layer's projection, jet step and output, each as `jet.ops.reference` defines it."""
    gate = jet.sizes.gate(jet.projected)
    given = (jet.projected, *jet.generator, *jet.decays, jet.slots, *jet.states)
    return JetBlockOps(
        norm_linear(jet.x, *jet.norm, jet.weight, None, jet.projected),
        jet_step(*given, jet.out, jet.sizes),
        gated_norm_linear_add(jet.out, gate, *jet.out_norm, jet.output, jet.x),
    )


def _triton_jet_block(pdl: bool, jet: JetBlockTensors) -> JetBlockOps:
    """Bind a jet layer's Triton kernels.

    They divide the work differently from the references: the projection also applies activations, and the jet
    step also applies the first half of the gated norm.
    """
    from jet.ops.triton import gemv, jet_step

    (norm_weight, eps), sizes = jet.out_norm, jet.sizes
    shape = (len(jet.x), sizes.num_heads, jet_step.num_partials(sizes, jet.generator[0]))
    partial_squares = torch.empty(shape, dtype=torch.float32, device=jet.x.device)
    projection = (jet.x, *jet.norm, jet.weight, None, jet.projected, jet_step.num_activated(sizes))
    given = (jet.projected, *jet.generator, *jet.decays, jet.slots, *jet.states)
    return JetBlockOps(
        partial(gemv.norm_linear, *projection, pdl=pdl),
        # A step is one chain: no kernel in it writes the states before this one reads them.
        partial(
            jet_step.jet_step,
            *given,
            norm_weight,
            jet.out,
            partial_squares,
            sizes,
            load_before_wait=pdl,
            pdl=pdl,
        ),
        partial(gemv.heads_linear_add, jet.out, partial_squares, eps, jet.output, jet.x, pdl=pdl),
    )


def make_token_drawer(vocabulary: int) -> Drawer | None:
    """Return the compiled version of `jet.ops.sampling.sample` for a CPU; None if numba is missing or fails.

    `vocabulary`: the number of tokens in the vocabulary.
    """
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        from jet.ops.numba.token_draw import TokenDrawer
    except Exception:  # `numba_backend` logs it
        return None
    return TokenDrawer(vocabulary)


def _float32_hidden(
    size: int, hidden: int, dtype: torch.dtype, scheme: str | None
) -> tuple[int, torch.dtype]:
    return size, torch.float32


def _model_dtype_hidden(
    size: int, hidden: int, dtype: torch.dtype, scheme: str | None
) -> tuple[int, torch.dtype]:
    """Return the columns and dtype of the MLP's hidden values: the network's own dtype, or float32.

    The network's own dtype takes the fewest bytes; it is used if it is half precision.
    """
    return size, dtype if dtype in (torch.bfloat16, torch.float16) else torch.float32


def triton_mlp_hidden_format(
    size: int, hidden: int, dtype: torch.dtype, scheme: str | None
) -> tuple[int, torch.dtype]:
    """Return the columns and dtype of the MLP's hidden values.

    For quantized weights, hidden values are packed int16 if the sizes allow it, otherwise bfloat16 or
    float32. float16 is not used, since values may exceed its range.

    Args:
        size: the number of hidden values.
        hidden: the number of the MLP's inputs.
        dtype: the network's dtype.
        scheme: the quantization scheme of the weights; None if they are not quantized.
    """
    from jet.ops.triton import gemv, int_gemv

    columns = gemv.packed_mlp_columns(size, hidden, scheme)
    if columns is not None:
        return columns, int_gemv.PACKED_INT16
    return size, dtype if dtype == torch.bfloat16 else torch.float32


def _as_bfloat16_if_exact(weight: Weight) -> Weight:
    """Return a small float32 weight in bfloat16 if the conversion is exact, which halves the bytes to read.

    It is exact for most checkpoints, which are stored in bfloat16 and only loaded as float32.
    """
    if (
        isinstance(weight, QuantizedTensor)
        or weight.dtype != torch.float32
        or weight.nbytes > MAX_COPIED_BYTES
    ):
        return weight
    short = weight.bfloat16()
    return short if torch.equal(short.float(), weight) else weight


def triton_backend(
    device: torch.device,
    batch: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    dtype: torch.dtype | None = None,
    scheme: str | None = None,
) -> OpBackend:
    """Return the Triton kernels for steps of `batch` rows.

    From `TENSOR_CORE_BATCH` rows on, products use tensor cores, in this project's kernel or in cuBLAS. For
    `MIN_FUSED_BATCH` to `MAX_FUSED_BATCH` rows and unquantized bfloat16 weights, tensor-core products include
    norms, activations and residuals. If the GPU and Triton support it, these fused kernels and all kernels
    for smaller batches use programmatic dependent launch.

    `scheme`: the quantization scheme of the weights; None if they are not quantized.
    """
    from jet.ops.triton import decode_attention as attention_kernels
    from jet.ops.triton import gemv

    pdl = has_dependent_launch(device) and batch < TENSOR_CORE_BATCH
    splits = attention_kernels.default_num_splits(batch, kv_heads, device)
    scratch = attention_kernels.AttentionScratch.make(batch, heads, head_dim, splits, device)
    launch_args: dict[str, Any] = {"pdl": pdl}
    fused = MIN_FUSED_BATCH <= batch <= MAX_FUSED_BATCH and gpu_target(device) is not None
    if fused and dtype == torch.bfloat16 and scheme is None:
        return _fused_backend(scratch, pdl=has_dependent_launch(device))
    if batch >= TENSOR_CORE_BATCH:
        return _batched_backend(scratch)
    attention_args = {"scratch": scratch, **launch_args}
    return OpBackend(
        name="triton, chained" if pdl else "triton",
        mlp_hidden_format=triton_mlp_hidden_format,
        prepare_weight=_unchanged,
        with_prefetch=_with_prefetch if pdl else _no_prefetch,
        embed=partial(partial, gemv.embed, **launch_args),
        norm_linear=partial(partial, gemv.norm_linear, **launch_args),
        norm_swiglu=partial(partial, gemv.norm_swiglu, **launch_args),
        linear_add=partial(partial, gemv.linear_add, **launch_args),
        jet_block=partial(_triton_jet_block, pdl),
        attend_pages=partial(partial, attention_kernels.attend_pages, **attention_args),
        attend_window=partial(partial, attention_kernels.attend_window, **attention_args),
    )


def _fused_backend(scratch: AttentionScratch, pdl: bool, dtype: torch.dtype = torch.bfloat16) -> OpBackend:
    """Return the kernels in which norms, activations and residuals are parts of tensor-core products."""
    from jet.ops.triton import decode_attention, fused_skinny

    workspace = fused_skinny.Workspace(pdl, dtype)
    attending: dict[str, Any] = {"scratch": scratch, "pdl": pdl}
    return OpBackend(
        name="triton, fused tensor-core products" + (", chained" if pdl else ""),
        mlp_hidden_format=_model_dtype_hidden,
        prepare_weight=_unchanged,
        with_prefetch=_no_prefetch,
        embed=partial(fused_skinny.embed, workspace),
        norm_linear=partial(fused_skinny.norm_linear, workspace),
        norm_swiglu=partial(fused_skinny.norm_swiglu, workspace),
        linear_add=partial(fused_skinny.linear_add, workspace),
        jet_block=partial(_fused_jet_block, workspace),
        attend_pages=partial(partial, decode_attention.attend_pages, **attending),
        attend_window=partial(partial, decode_attention.attend_window, **attending),
    )


def _fused_jet_block(workspace: FusedWorkspace, jet: JetBlockTensors) -> JetBlockOps:
    """Bind a jet layer's four kernels: projections, kernel generator, delta rule, output."""
    from jet.ops.triton import fused_skinny

    sizes, rows, device = jet.sizes, len(jet.x), jet.x.device
    weight, bias = jet.generator
    assert isinstance(jet.weight, Tensor) and isinstance(weight, Tensor) and isinstance(jet.output, Tensor)
    (norm_weight, eps), channels = jet.out_norm, sizes.num_heads * sizes.head_v_dim
    hidden = workspace.get("hidden", (rows, sizes.generator_dim), workspace.dtype, device)
    kernels = workspace.get("kernels", (rows, channels * sizes.conv_size), torch.float32, device)
    out = workspace.get("delta", (rows, channels), workspace.dtype, device)
    shares = (rows, sizes.num_heads, fused_skinny.head_shares(sizes))
    squares = workspace.get("head squares", shares, torch.float32, device)
    activated = sum(sizes.split_sizes[:3])  # q, k and the generator's hidden channels
    inputs = (jet.x, *jet.norm, jet.weight, None, jet.projected)
    copied_from = 2 * sizes.num_heads * sizes.head_k_dim
    project = fused_skinny.norm_linear(workspace, *inputs, activated, hidden, copied_from)
    generate = fused_skinny.product(workspace, hidden, weight, kernels)
    given = (jet.projected, kernels, bias, *jet.decays, jet.slots, *jet.states, norm_weight, out, squares)
    advance = fused_skinny.jet_step(workspace, *given, sizes)

    def step() -> None:
        generate()
        advance()

    back = fused_skinny.heads_linear_add(workspace, out, squares, eps, jet.output, jet.x)
    return JetBlockOps(project, step, back)


def _batched_backend(scratch: AttentionScratch) -> OpBackend:
    from jet.ops.triton import batched_decode, decode_attention, gemv

    workspace = batched_decode.Workspace()
    norm_linear, jet_step = (
        partial(batched_decode.norm_linear, workspace),
        partial(batched_decode.jet_step, workspace),
    )
    return OpBackend(
        name="triton and cuBLAS",
        mlp_hidden_format=_model_dtype_hidden,
        prepare_weight=_unchanged,
        with_prefetch=_no_prefetch,
        embed=partial(partial, gemv.embed),
        norm_linear=norm_linear,
        norm_swiglu=partial(batched_decode.norm_swiglu, workspace),
        linear_add=partial(batched_decode.linear_add, workspace),
        jet_block=partial(
            _unfused_jet_block,
            norm_linear,
            jet_step,
            partial(batched_decode.gated_norm_linear_add, workspace),
        ),
        attend_pages=partial(partial, decode_attention.attend_pages, scratch=scratch),
        attend_window=partial(partial, decode_attention.attend_window, scratch=scratch),
    )


def _unchanged(weight: Weight) -> Weight:
    return weight


def _no_prefetch(step: BoundOp, _: Tensor) -> BoundOp:
    return step


def _with_prefetch(step: BoundOp, weight: Tensor) -> BoundOp:
    return partial(step, prefetch=weight)  # type: ignore[call-arg]


def has_dependent_launch(device: torch.device) -> bool:
    """Return whether programmatic dependent launch is supported: from sm_90 and Triton 3.5 on."""
    target = gpu_target(device)
    if target is None or target.capability < 90:
        return False
    import triton

    return tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 5)
