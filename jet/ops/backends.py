"""Operations: the decode step's fused operations in the form that is fastest on a device.

Every one of them exists in plain torch (`jet.ops.reference`, `jet.ops.attention`), which is their definition,
in Triton for CUDA and compiled for CPUs. All work in place on tensors that stay where they are, so they are
bound to them once: binding gives a function of nothing, and a step is a list of those.
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
from jet.ops.quantization import Quantized, Weight
from jet.ops.reference import JetSizes

if TYPE_CHECKING:
    from jet.ops.triton.decode_attention import AttentionScratch

log = logging.getLogger(__name__)

MANY = 8  # rows from which tensor cores multiply
LARGE = 2**28  # bytes: of a network with such matrices nobody wants another half in memory

Step = Callable[[], None]
Bind = Callable[..., Step]  # takes the operation's arguments
# For so many numbers, the hidden size, a network's type and the scheme of its weights: columns and type.
Between = Callable[[int, int, torch.dtype, "str | None"], tuple[int, torch.dtype]]


class JetBlock(NamedTuple):
    """The three operations of a jet layer; what they leave for each other is their own affair."""

    project: Step
    step: Step
    back: Step


class JetTensors(NamedTuple):
    """What a jet layer works on; shapes as in `jet.ops.reference`."""

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


BindJetBlock = Callable[[JetTensors], JetBlock]


@dataclass(frozen=True)
class Operations:
    """How to bind each operation; arguments as for those of `jet.ops.reference` and `jet.ops.attention`.

    Attributes:
        name: in words for people.
        between: gives the shape of what MLPs keep between their products.
        weight: gives a matrix in the form that products read fastest, itself or a copy.
        ahead: gives a bound operation that also has the memory fetched which the next one reads first.
    """

    name: str
    between: Between
    weight: Callable[[Weight], Weight]
    ahead: Callable[[Step, Tensor], Step]
    embed: Bind
    norm_linear: Bind
    norm_swiglu: Bind
    linear_add: Bind
    jet_block: BindJetBlock
    attend_pages: Bind
    attend_window: Bind


def reference_operations() -> Operations:
    """Plain torch, on any device."""
    return Operations(
        name="torch",
        between=_in_float32,
        weight=_as_it_is,
        ahead=_without,
        embed=partial(partial, reference.embed_reference),
        norm_linear=partial(partial, reference.norm_linear_reference),
        norm_swiglu=partial(partial, reference.norm_swiglu_reference),
        linear_add=partial(partial, reference.linear_add_reference),
        jet_block=partial(
            _in_three,
            partial(partial, reference.norm_linear_reference),
            partial(partial, reference.jet_step_reference),
            partial(partial, reference.gated_norm_linear_add_reference),
        ),
        attend_pages=partial(partial, attention.attend_pages_reference),
        attend_window=partial(partial, attention.attend_window_reference),
    )


def cpu_operations() -> Operations:
    """Compiled for this processor where numba is installed, otherwise plain torch."""
    if importlib.util.find_spec("numba") is None:
        return reference_operations()
    try:
        from jet.ops.numba import jet_block_step, matvec, paged_attention
    except Exception as error:  # another numpy than numba was made for, an LLVM that does not load
        log.warning("numba cannot be used: plain PyTorch decodes, slower. (%s)", error)
        return reference_operations()
    return Operations(
        name="numba",
        between=_in_float32,
        weight=_as_bfloat16,
        ahead=_without,
        embed=matvec.embed.bind,
        norm_linear=matvec.norm_linear.bind,
        norm_swiglu=matvec.norm_swiglu.bind,
        linear_add=matvec.linear_add.bind,
        jet_block=partial(
            _in_three,
            matvec.norm_linear.bind,
            jet_block_step.jet_step.bind,
            matvec.gated_norm_linear_add.bind,
        ),
        attend_pages=paged_attention.attend_pages.bind,
        attend_window=paged_attention.attend_window.bind,
    )


def _in_three(norm_linear: Bind, jet_step: Bind, gated_norm_linear_add: Bind, jet: JetTensors) -> JetBlock:
    """A jet layer by its definition: see `jet.ops.reference` for each."""
    gate = jet.sizes.gate(jet.projected)
    given = (jet.projected, *jet.generator, *jet.decays, jet.slots, *jet.states)
    return JetBlock(
        norm_linear(jet.x, *jet.norm, jet.weight, None, jet.projected),
        jet_step(*given, jet.out, jet.sizes),
        gated_norm_linear_add(jet.out, gate, *jet.out_norm, jet.output, jet.x),
    )


def _triton_jet_block(pdl: bool, jet: JetTensors) -> JetBlock:
    """The same in Triton's kernels, which share out the activations and the norm in another way."""
    from jet.ops.triton import gemv, jet_step

    (norm_weight, eps), sizes = jet.out_norm, jet.sizes
    shape = (len(jet.x), sizes.heads, jet_step.shares(sizes, jet.generator[0]))
    squares = torch.empty(shape, dtype=torch.float32, device=jet.x.device)
    projection = (jet.x, *jet.norm, jet.weight, None, jet.projected, jet_step.activated(sizes))
    given = (jet.projected, *jet.generator, *jet.decays, jet.slots, *jet.states)
    return JetBlock(
        partial(gemv.norm_linear, *projection, pdl=pdl),
        # A step is one chain: no kernel in it writes the states before this one reads them.
        partial(jet_step.jet_step, *given, norm_weight, jet.out, squares, sizes, early=pdl, pdl=pdl),
        partial(gemv.heads_linear_add, jet.out, squares, eps, jet.output, jet.x, pdl=pdl),
    )


def _in_float32(size: int, hidden: int, dtype: torch.dtype, scheme: str | None) -> tuple[int, torch.dtype]:
    return size, torch.float32


def _in_half_precision(
    size: int, hidden: int, dtype: torch.dtype, scheme: str | None
) -> tuple[int, torch.dtype]:
    """In the network's own type, as its forward keeps it, there is less to move."""
    return size, dtype if dtype in (torch.bfloat16, torch.float16) else torch.float32


def in_triton(size: int, hidden: int, dtype: torch.dtype, scheme: str | None) -> tuple[int, torch.dtype]:
    """In whole numbers where weights are codes; otherwise never in float16, where one could be too large."""
    from jet.ops.triton import gemv, int_gemv

    columns = gemv.between(size, hidden, scheme)
    if columns is not None:
        return columns, int_gemv.BETWEEN
    return size, dtype if dtype == torch.bfloat16 else torch.float32


def _as_bfloat16(weight: Weight) -> Weight:
    """A small float32 weight in bfloat16 if that is the same numbers: half the bytes, read twice as fast.

    Checkpoints are mostly bfloat16, also where they are loaded as float32 to be computed with as such.
    """
    if isinstance(weight, Quantized) or weight.dtype != torch.float32 or weight.nbytes > LARGE:
        return weight
    short = weight.bfloat16()
    return short if torch.equal(short.float(), weight) else weight


def triton_operations(
    device: torch.device, batch: int, heads: int, kv_heads: int, head_dim: int
) -> Operations:
    """Triton kernels, chained by programmatic dependent launch where the card and Triton have it.

    From `MANY` rows on the products are on tensor cores, by our kernel or cuBLAS.
    """
    from jet.ops.triton import decode_attention as attention_kernels
    from jet.ops.triton import gemv

    pdl = has_dependent_launch(device) and batch < MANY
    splits = attention_kernels.suggested_splits(batch, kv_heads, device)
    scratch = attention_kernels.AttentionScratch.make(batch, heads, head_dim, splits, device)
    chained: dict[str, Any] = {"pdl": pdl}
    if batch >= MANY:
        return _batched_operations(scratch)
    attending = {"scratch": scratch, **chained}
    return Operations(
        name="triton, chained" if pdl else "triton",
        between=in_triton,
        weight=_as_it_is,
        ahead=_with_ahead if pdl else _without,
        embed=partial(partial, gemv.embed, **chained),
        norm_linear=partial(partial, gemv.norm_linear, **chained),
        norm_swiglu=partial(partial, gemv.norm_swiglu, **chained),
        linear_add=partial(partial, gemv.linear_add, **chained),
        jet_block=partial(_triton_jet_block, pdl),
        attend_pages=partial(partial, attention_kernels.attend_pages, **attending),
        attend_window=partial(partial, attention_kernels.attend_window, **attending),
    )


def _batched_operations(scratch: AttentionScratch) -> Operations:
    from jet.ops.triton import batched_decode, decode_attention, gemv

    memory = batched_decode.Memory()
    norm_linear, jet_step = (
        partial(batched_decode.norm_linear, memory),
        partial(batched_decode.jet_step, memory),
    )
    return Operations(
        name="triton and cuBLAS",
        between=_in_half_precision,
        weight=_as_it_is,
        ahead=_without,
        embed=partial(partial, gemv.embed),
        norm_linear=norm_linear,
        norm_swiglu=partial(batched_decode.norm_swiglu, memory),
        linear_add=partial(batched_decode.linear_add, memory),
        jet_block=partial(
            _in_three, norm_linear, jet_step, partial(batched_decode.gated_norm_linear_add, memory)
        ),
        attend_pages=partial(partial, decode_attention.attend_pages, scratch=scratch),
        attend_window=partial(partial, decode_attention.attend_window, scratch=scratch),
    )


def _as_it_is(weight: Weight) -> Weight:
    return weight


def _without(step: Step, _: Tensor) -> Step:
    return step


def _with_ahead(step: Step, weight: Tensor) -> Step:
    return partial(step, ahead=weight)  # type: ignore[call-arg]


def has_dependent_launch(device: torch.device) -> bool:
    """Whether kernels here may start before the ones they wait for have ended: sm_90 on, Triton 3.5 on."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (9, 0):
        return False
    import triton

    return tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 5)
