# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# mypy: disable-error-code="assignment"
"""The decode step for a few rows: one tensor-core product per projection, with everything else fused into it.

A product for 2 to 8 rows need not take longer than reading its weight, as long as memory is never idle. So
norms, activations, biases and residuals are parts of the products. With programmatic dependent launch, a
product reads its weight into registers while the previous kernel ends.

- The divisor of a norm is the same for all of a row's inputs, so it is applied to the row's outputs. An
  operation that writes the residual stream also writes the stream times the scale of the following norm, in
  bfloat16, and one partial sum of squares per program (`Stream`).
- The gated norm after the delta rule has a divisor for each head. The output product applies it to the
  partial sums of that head's columns.

The functions take a shared workspace and then the arguments of their definitions in `jet.ops.reference`. Each
returns an operation bound to these tensors, to be called repeatedly. Inputs of products are rounded to
bfloat16, as in the network's forward; sums are float32, in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch import Tensor

from jet.ops.gpu_target import gpu_target
from jet.ops.reference import JetSizes
from jet.ops.triton import fused_skinny_kernels
from jet.ops.triton.jet_step import block_key
from jet.ops.triton.skinny import SplitKWorkspace

BLOCK = 1024  # hidden channels that a program of the embedding writes
VALUES = 32  # value channels of a program of the jet step

LEAST = 8  # rows of a batch that the tensor cores take
HELD = 1536  # columns of 16 rows that a program's registers have room for twice

Step = Callable[[], None]


@dataclass(frozen=True)
class ProductCut:
    """How the work of a product is divided.

    Attributes:
        rows: the weight rows of a tile.
        chunks: the chunks of columns that a program multiplies in one step, one for each warp.
        columns: the columns of a chunk.
        parts: the parts that all columns are split into; each part of a tile has a program of its own.
        programs: about the largest number of programs; a program runs several tiles if there are more tiles.
    """

    rows: int = 16
    chunks: int = 8
    columns: int = 64
    parts: int = 1
    programs: int = 264

    @property
    def warps(self) -> int:
        """Return the number of warps of a program."""
        return self.chunks


@dataclass
class Stream:
    """The residual stream in the form that the next product reads.

    Attributes:
        scaled: `[B, C]` bfloat16, the stream times the scale of the following norm.
        memory: the memory of `squares`.
        shares: the number of partial sums of squares of a row.
        norm: the scale `[C]` of the following norm; None until the next product is bound.
    """

    scaled: Tensor
    memory: Tensor
    shares: int = 1
    norm: Tensor | None = None

    @property
    def squares(self) -> Tensor:
        """Return the partial sums of each row's squares, `[B, shares]` float32."""
        return self.memory[: len(self.scaled) * self.shares].view(len(self.scaled), self.shares)


@dataclass
class Workspace:
    """Buffers between the kernels of a step, shared by all layers.

    Attributes:
        pdl: whether to use programmatic dependent launch.
        dtype: the type of weights and of inputs of products.
        stream: the residual stream that the last bound operation writes.
    """

    pdl: bool = False
    dtype: torch.dtype = torch.bfloat16
    stream: Stream | None = None
    split_k: SplitKWorkspace = field(default_factory=SplitKWorkspace)
    _tensors: dict[tuple[object, ...], Tensor] = field(default_factory=dict)

    def get(self, use: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return the buffer of a shape and dtype for the purpose named `use`, which all layers share."""
        key = (use, shape, dtype, device)
        if key not in self._tensors:
            self._tensors[key] = torch.empty(shape, dtype=dtype, device=device)
        return self._tensors[key]

    def write_stream(self, x: Tensor, shares: int) -> Stream:
        """Return a new stream for x `[B, C]`, to be written by the operation that is being bound.

        `shares`: the number of partial sums of squares that the operation writes for each row.
        """
        scaled = self.get("stream", tuple(x.shape), self.dtype, x.device)
        memory = self.get("squares", (len(x) * 256,), torch.float32, x.device)
        self.stream = Stream(scaled, memory, shares)
        return self.stream

    def read_stream(self, norm: Tensor) -> Stream:
        """Return the stream that the previous operation writes, and set the norm that scales it."""
        assert self.stream is not None
        self.stream.norm = norm
        return self.stream


def embed(
    workspace: Workspace,
    token: Tensor,
    embedding: Tensor,
    position: Tensor,
    inv_freq: Tensor,
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
) -> Step:
    """Bind the operation that `embed_reference` defines."""
    batch, c = x.shape
    block = min(BLOCK, triton.next_power_of_2(c))
    blocks = triton.cdiv(c, block)
    stream = workspace.write_stream(x, blocks)

    def run() -> None:
        fused_skinny_kernels.embed_kernel[(blocks, batch)](
            token, embedding, position, inv_freq, x, cos, sin, stream.norm, stream.scaled, stream.memory,
            C=c, HALF=len(inv_freq), HALF_PADDED=triton.next_power_of_2(len(inv_freq)), BLOCK=block,
            PDL=workspace.pdl, **_launch(workspace, 4),
        )  # fmt: skip

    return run


def norm_linear(
    workspace: Workspace,
    x: Tensor,
    norm_weight: Tensor,
    eps: float,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    activated: int = 0,
    copied: Tensor | None = None,
    copied_from: int = 0,
    cut: ProductCut | None = None,
) -> Step:
    """Bind the operation that `norm_linear_reference` defines, with the workspace's stream in place of x.

    SiLU is applied to the first `activated` outputs. M outputs from `copied_from` on are also written to
    `copied`, `[B, M]` bfloat16.
    """
    stream = workspace.read_stream(norm_weight)
    given = Product(workspace, stream.scaled, weight, out, cut)
    given.options |= {"ACTIVATED": activated}
    given.normalize(stream, eps)
    if bias is not None:
        given.tensors["bias"] = bias
    if copied is not None:
        given.tensors["copied"] = copied
        given.options |= {"COPIED_FROM": copied_from, "COPIED": copied.shape[1]}
    return given.run


def norm_swiglu(
    workspace: Workspace,
    x: Tensor,
    norm_weight: Tensor,
    eps: float,
    gate_up: Tensor,
    out: Tensor,
    cut: ProductCut | None = None,
) -> Step:
    """Bind the operation that `norm_swiglu_reference` defines, with the workspace's stream in place of x."""
    stream = workspace.read_stream(norm_weight)
    given = Product(workspace, stream.scaled, gate_up, out, cut, gated=True)
    given.normalize(stream, eps)
    return given.run


def linear_add(
    workspace: Workspace, h: Tensor, weight: Tensor, x: Tensor, cut: ProductCut | None = None
) -> Step:
    """Bind the operation that `linear_add_reference` defines; fastest if `h` is bfloat16."""
    halved = h if h.dtype == weight.dtype else workspace.get("input", tuple(h.shape), weight.dtype, h.device)
    given = Product(workspace, halved, weight, x, cut)
    given.add_to_stream(x)

    def run() -> None:
        halved.copy_(h)
        given.run()

    return given.run if halved is h else run


def heads_linear_add(
    workspace: Workspace,
    o: Tensor,
    squares: Tensor,
    eps: float,
    weight: Tensor,
    x: Tensor,
    cut: ProductCut | None = None,
) -> Step:
    """Finish `gated_norm_linear_add_reference` after `jet_step`: divide by the norms, multiply, add.

    Args:
        o: the gated norm's inputs times its scale and the activated gate, `[B, H * V]` bfloat16.
        squares: S partial sums of the squares of each head's inputs, `[B, H, S]` float32.
        eps: the norm's epsilon.
        weight: `[N, H * V]`.
        x: `[B, N]` float32, added to.
    """
    _, heads, shares = squares.shape
    given = Product(workspace, o, weight, x, cut, divides=o.shape[1] // heads)
    given.tensors["squares"] = squares
    given.eps = eps
    given.options |= {
        "HEADS": heads,
        "SIZE": o.shape[1] // heads,
        "SHARES": shares,
        "SHARES_PADDED": triton.next_power_of_2(shares),
    }
    given.add_to_stream(x)
    return given.run


def product(
    workspace: Workspace, given: Tensor, weight: Tensor, out: Tensor, cut: ProductCut | None = None
) -> Step:
    """Bind `out = given @ weight.T`."""
    return Product(workspace, given, weight, out, cut).run


def jet_step(
    workspace: Workspace,
    projected: Tensor,
    kernels: Tensor,
    kernels_bias: Tensor,
    log_decay_rate: Tensor,
    dt_bias: Tensor,
    slots: Tensor,
    conv_state: Tensor,
    recurrent_state: Tensor,
    norm_weight: Tensor,
    out: Tensor,
    squares: Tensor,
    sizes: JetSizes,
) -> Step:
    """Bind `jet_step_reference`, together with the first half of the gated norm that follows it.

    Arguments that differ from `jet_step_reference`:
        projected: with q and k already activated.
        kernels: the convolution's kernels before their bias, `[B, H * V * W]` float32.
        norm_weight: the gated norm's scale, `[V]`.
        out: `[B, H * V]` bfloat16, gets the result times `norm_weight` and the activated gate.
        squares: `[B, H, S]` float32, gets S partial sums of the squares of each head's result.
    """
    rows = min(VALUES, triton.next_power_of_2(sizes.head_v_dim))
    grid = (triton.cdiv(sizes.head_v_dim, rows), sizes.num_heads, len(projected))

    def run() -> None:
        fused_skinny_kernels.jet_step_kernel[grid](
            projected, projected.stride(0), kernels, kernels_bias, log_decay_rate, dt_bias, slots,
            conv_state, recurrent_state, norm_weight, out, squares, sizes.head_k_dim**-0.5,
            HEADS=sizes.num_heads, KEY=sizes.head_k_dim, VALUE=sizes.head_v_dim,
            GENERATOR=sizes.generator_dim, WIDTH=sizes.conv_size, ROWS=rows, KEYS=block_key(sizes.head_k_dim),
            PDL=workspace.pdl, **_launch(workspace, 4),
        )  # fmt: skip

    return run


def head_shares(sizes: JetSizes) -> int:
    """Return the number of partial sums of a head's squares."""
    return int(triton.cdiv(sizes.head_v_dim, min(VALUES, triton.next_power_of_2(sizes.head_v_dim))))


class Product:
    """One product with its fused operations, bound to its tensors."""

    def __init__(
        self,
        workspace: Workspace,
        given: Tensor,
        weight: Tensor,
        out: Tensor,
        cut: ProductCut | None,
        gated: bool = False,
        divides: int = 0,
    ) -> None:
        """Bind a product `given @ weight.T`. Raises ValueError unless shapes fit and all is contiguous.

        Args:
            workspace: buffers and options of all products.
            given: `[B, C]`.
            weight: `[N, C]`, or `[2 * N, C]` if `gated`, with the gate's rows first.
            out: `[B, N]`.
            cut: how the work is divided; None to choose by the weight's shape.
            gated: whether the outputs are `silu(gate) * up`.
            divides: a number of columns, such as a head's, that must be a multiple of a chunk's columns; 0
                for none.
        """
        (batch, c), n = given.shape, out.shape[1]
        self._batch = batch
        fits = weight.shape == (n * (2 if gated else 1), c) and len(out) == batch
        if not (fits and weight.is_contiguous() and given.is_contiguous() and out.is_contiguous()):
            raise ValueError(
                f"weight {list(weight.shape)}, input {list(given.shape)} and output {list(out.shape)} "
                "must fit each other and be contiguous."
            )
        self._workspace, self._cut = workspace, cut or choose_cut(len(weight), c, weight.device)
        cut = self._cut
        columns = min(cut.columns, max(16, triton.next_power_of_2(c)))
        while divides and divides % columns:
            columns //= 2
        self._mine = cut.rows // 2 if gated else cut.rows
        self._tiles = triton.cdiv(n, self._mine)
        steps = triton.cdiv(c, cut.chunks * columns)
        parts = self._parts = min(cut.parts, steps)
        self._stream: Stream | None = None
        self.eps = 0.0
        padded = max(LEAST, triton.next_power_of_2(batch))
        sums, counters = workspace.split_k.reserve(
            self._tiles if parts > 1 else 0, parts * cut.rows * padded, weight.device
        )
        self.tensors: dict[str, Tensor | None] = {
            "given": given, "weight": weight, "out": out, "sums": sums, "counters": counters,
            "squares": None, "bias": None, "copied": None, "scale": None, "scaled": None,
            "squares_after": None,
        }  # fmt: skip
        self.options: dict[str, Any] = {
            "N": n, "C": c, "PADDED": padded, "GATED": gated, "ADD": False, "ACTIVATED": 0,
            "COPIED_FROM": 0, "COPIED": 0, "HEADS": 0, "SIZE": 1, "SHARES": 1, "SHARES_PADDED": 1,
            "ROWS": cut.rows, "CHUNKS": cut.chunks, "COLUMNS": columns, "PARTS": parts,
            "STEPS": triton.cdiv(steps, parts), "TILES": self._tiles,
        }  # fmt: skip

    def normalize(self, stream: Stream, eps: float) -> None:
        """Let `run` divide each row's outputs by the root mean square of the row's inputs, from `stream`."""
        self.eps = eps
        self.tensors["squares"] = stream.squares
        self.options |= {
            "SHARES": stream.shares,
            "SHARES_PADDED": triton.next_power_of_2(stream.shares),
        }

    def add_to_stream(self, x: Tensor) -> None:
        """Let `run` add the outputs to the residual stream x, and write the stream for the following norm."""
        self._stream = self._workspace.write_stream(x, self._tiles)
        self.options["ADD"] = True

    def run(self) -> None:
        """Launch the kernel."""
        tensors = dict(self.tensors)
        if self._stream is not None:
            stream = self._stream
            tensors |= {"scale": stream.norm, "scaled": stream.scaled, "squares_after": stream.squares}
        pdl = self._workspace.pdl
        # Each program has the same part of the columns of all its tiles.
        programs = self._parts * min(self._tiles, -(-self._cut.programs // self._parts))
        fused_skinny_kernels.product_kernel[(programs,)](
            *tensors.values(),
            self.eps,
            self._batch,
            **self.options,
            PDL=pdl,
            **_launch(self._workspace, self._cut.warps),
        )


def _launch(workspace: Workspace, warps: int) -> dict[str, Any]:
    return {"num_warps": warps} | ({"launch_pdl": True} if workspace.pdl else {})


def choose_cut(n: int, c: int, device: torch.device) -> ProductCut:
    """Choose how to divide a product with a weight of `n` rows and `c` columns.

    The choices are near the fastest on an H200. A weight with few rows gets three programs per multiprocessor
    and has its columns split. Any other weight gets two programs, or four if it has few columns.
    """
    target = gpu_target(device)
    processors = 4 if target is None else target.processors
    tiles = triton.cdiv(n, 16)
    if 2 * tiles < 3 * processors:
        parts = max(triton.cdiv(c, HELD), triton.cdiv(2 * processors, tiles))
        return ProductCut(16, 4, 64, parts, 3 * processors)
    columns = next((size for size in (128, 64, 32) if c % (4 * size) == 0), 64)
    return ProductCut(16, 4, columns, triton.cdiv(c, HELD), (2 if c >= HELD else 4) * processors)
