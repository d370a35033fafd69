"""The decode step's operations on several cores: `Layers` binds them to tensors as jobs of the thread pool.

Quantized weights are multiplied by quantized activations, as `jet.ops.activations` defines; other weights by
float32 activations, as `jet.ops.reference` does.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jet.huge_pages import empty_in_huge_pages
from jet.ops.blocked import BlockedTensor, in_blocks
from jet.ops.numba import jet_block_step as jet_step
from jet.ops.numba import matvec as linear
from jet.ops.numba.bound_operation import Array, BoundOp, array, constant
from jet.ops.numba.pool_kernels import GROUP, ISA, LANES, After, Before, JetJob, Job, kernel
from jet.ops.numba.thread_pool import Pool
from jet.ops.quantization import INT4, QuantizedTensor, Weight
from jet.ops.reference import JetSizes

CHUNK = 96 * 1024  # bytes of weights
NEAR = 384 * 1024  # bytes of activations that stay in a core's cache while weights pass
LINE = 64  # bytes of a vector and of a line of a cache
FEW = 4  # rows of activations; fewer are prepared by one thread
_TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}

Words = NDArray[np.int64]
POOL = Pool()


class Workspace:
    """Scratch memory for intermediate results of operations, shared by jobs that run one after the other."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, ...], dict[Job, Array]] = {}
        self._kernels: dict[int, Tensor] = {}

    def activations(self, batch: int, columns: int, span: int, width: int) -> dict[Job, Array]:
        """Allocate `batch` rows of activations; return the arrays by their fields in a job.

        A row has `columns` values in runs of `span` values. Each run is padded with zeros; a padded row has
        `width` values.
        """
        key, size = (columns, span, width), batch * width
        if key not in self._held or self._held[key][Job.X].size < size:
            self._held[key] = {
                Job.X: _aligned(size, np.float32),
                Job.CODES: _aligned(size, np.int8),
                Job.STARTS: _aligned(size // GROUP, np.int32),
                Job.FACTORS: _aligned(size // GROUP, np.float32),
            }
        return self._held[key]

    def kernels(self, batch: int, columns: int) -> Tensor:
        """Allocate generated convolution kernels `[batch, columns]`."""
        if columns not in self._kernels or len(self._kernels[columns]) < batch:
            self._kernels[columns] = torch.empty(batch, columns)
        return self._kernels[columns][:batch]


def _aligned(size: int, kind: Any) -> Array:
    count = size * np.dtype(kind).itemsize
    memory = np.zeros(count + LINE, np.uint8)
    begin = -memory.ctypes.data % LINE
    return memory[begin : begin + count].view(kind)


class Product:
    """A bound product: a call prepares all rows of activations and multiplies them by the weight."""

    def __init__(self, job: Words, form: str, coded: bool, threads: int, held: list[Any]) -> None:
        prepare = kernel(f"prepare_{form}" if coded else "prepare_numbers")
        multiply = kernel(f"multiply_{form}")
        self._prepare, self._multiply, self._threads = prepare.address, multiply.address, threads
        self._held = [prepare, multiply, *held]
        self._words, self._job = job, job.ctypes.data
        self._chunks = -(-int(job[Job.ROWS]) // int(job[Job.STEP]))
        self._batch = int(job[Job.BATCH])

    def __call__(self) -> None:
        """Compute the product once, with the present contents of its tensors."""
        POOL.run(self._prepare, self._job, self._batch, self._threads if self._batch >= FEW else 1)
        POOL.run(self._multiply, self._job, self._chunks, self._threads)

    def resize(self, batch: int) -> None:
        """Set the number of rows of the following calls, at most as many as were bound."""
        self._batch = batch
        self._words[Job.BATCH] = batch


class JetStep:
    """A bound `jet_step`: a call generates the convolution's kernels and updates the states."""

    def __init__(
        self, generate: Product, job: Words, form: str, batch: int, layers: Layers, held: Any
    ) -> None:
        step = kernel(f"step_{form}")
        self._generate, self._step, self._words = generate, step.address, job
        self._job, self._heads, self._threads = job.ctypes.data, int(job[JetJob.HEADS]), layers.threads
        self._in_order, self._held = layers.in_order, (step, held)
        self.resize(batch)

    def __call__(self) -> None:
        """Compute the step once, with the present contents of its tensors."""
        self._generate()
        POOL.run(self._step, self._job, self._chunks, self._threads)

    def resize(self, batch: int) -> None:
        """Set the number of rows of the following calls, at most as many as were bound."""
        self._generate.resize(batch)
        self._chunks = self._heads * (1 if self._in_order else batch)
        self._words[JetJob.TOKENS] = batch if self._in_order else 1


class Layers:
    """Binds the decode step's operations to tensors. Their arguments are as in `jet.ops.reference`.

    Args:
        threads: the most threads of an operation.
        in_order: whether the rows are successive tokens of one sequence, and not one token of several.
    """

    def __init__(self, threads: int, in_order: bool = False) -> None:
        self.threads, self.in_order = threads, in_order
        self._workspace = Workspace()

    def norm_linear(
        self, x: Tensor, norm_weight: Tensor, eps: float, weight: Weight, bias: Tensor | None, out: Tensor
    ) -> BoundOp:
        """Bind the operation that `norm_linear_reference` defines."""
        if self._goes_alone(weight):
            return linear.norm_linear.bind(x, norm_weight, eps, weight, bias, out)
        return self._product(x, weight, out, Before.NORM, After.STORE, bias=bias, norm=(norm_weight, eps))

    def norm_swiglu(
        self, x: Tensor, norm_weight: Tensor, eps: float, gate_up: Weight, out: Tensor
    ) -> BoundOp:
        """Bind the operation that `norm_swiglu_reference` defines."""
        if self._goes_alone(gate_up):
            return linear.norm_swiglu.bind(x, norm_weight, eps, gate_up, out)
        return self._product(x, gate_up, out, Before.NORM, After.SWIGLU, norm=(norm_weight, eps))

    def linear_add(self, h: Tensor, weight: Weight, x: Tensor) -> BoundOp:
        """Bind the operation that `linear_add_reference` defines."""
        if self._goes_alone(weight):
            return linear.linear_add.bind(h, weight, x)
        return self._product(h, weight, x, Before.NOTHING, After.ADD)

    def gated_norm_linear_add(
        self, o: Tensor, gate: Tensor, norm_weight: Tensor, eps: float, weight: Weight, x: Tensor
    ) -> BoundOp:
        """Bind the operation that `gated_norm_linear_add_reference` defines."""
        if self._goes_alone(weight):
            return linear.gated_norm_linear_add.bind(o, gate, norm_weight, eps, weight, x)
        norm = (norm_weight, eps)
        return self._product(o, weight, x, Before.GATED_NORM, After.ADD, norm=norm, gate=gate)

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None, out: Tensor) -> BoundOp:
        """Bind `out = x @ weight.T + bias`."""
        return self._product(x, weight, out, Before.NOTHING, After.STORE, bias=bias)

    def jet_step(
        self,
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
        given = (projected, kernels_weight, kernels_bias, log_decay_rate, dt_bias, slots)
        if self._goes_alone(kernels_weight) and not self.in_order:
            return jet_step.jet_step.bind(*given, conv_state, recurrent_state, out, sizes)
        sizes.check(projected, kernels_weight, conv_state, recurrent_state, out)
        if slots.dtype != torch.int32:
            raise ValueError(f"Slots must be int32, not {slots.dtype}.")
        batch, before = len(projected), sum(sizes.split_sizes[:2])
        hidden = projected[:, before : before + sizes.generator_dim]
        kernels = self._workspace.kernels(batch, kernels_weight.shape[0])
        generate = self._product(hidden, kernels_weight, kernels, Before.SILU, After.STORE, bias=kernels_bias)
        job, held = np.zeros(JetJob.SIZE, np.int64), list[Tensor]()
        shape = (sizes.num_heads, sizes.head_k_dim, sizes.head_v_dim, sizes.conv_size, sizes.generator_dim)
        job[JetJob.HEADS : JetJob.GENERATOR + 1] = shape
        job[JetJob.PROJECTED_STRIDE] = projected.shape[1]
        tensors = {
            JetJob.PROJECTED: projected,
            JetJob.KERNELS: kernels,
            JetJob.DECAY_RATE: log_decay_rate.float(),
            JetJob.DT_BIAS: dt_bias.float(),
            JetJob.SLOTS: slots,
            JetJob.CONV: conv_state,
            JetJob.RECURRENT: recurrent_state,
            JetJob.OUT: out,
        }
        for place, tensor in tensors.items():
            held.append(tensor)
            job[place] = array(tensor).ctypes.data
        return JetStep(generate, job, _TYPES[conv_state.dtype], batch, self, held)

    def _goes_alone(self, weight: Weight) -> bool:
        """Return whether to use the single-threaded kernels of kernels.py, which take unquantized weights."""
        return self.threads == 1 and not isinstance(weight, QuantizedTensor)

    def _product(
        self,
        source: Tensor,
        weight: Weight,
        out: Tensor,
        before: Before,
        after: After,
        bias: Tensor | None = None,
        norm: tuple[Tensor, float] | None = None,
        gate: Tensor | None = None,
    ) -> Product:
        (batch, columns), parts = source.shape, 2 if after == After.SWIGLU else 1
        rows = weight.shape[0] // parts
        if weight.shape != (rows * parts, columns) or out.shape != (batch, rows):
            raise ValueError(
                f"weight {list(weight.shape)}, input {list(source.shape)} and output {list(out.shape)} "
                "must fit each other."
            )
        if isinstance(weight, QuantizedTensor):
            weight = in_blocks(
                weight if isinstance(weight, BlockedTensor) else weight[torch.arange(len(weight))]
            )
        coded, job = isinstance(weight, QuantizedTensor), np.zeros(Job.SIZE, np.int64)
        held: list[Any] = [source, weight, out, gate]
        job[Job.BATCH], job[Job.COLUMNS], job[Job.ROWS] = batch, columns, rows
        job[Job.BEFORE], job[Job.AFTER] = before, after
        job[Job.SOURCE], job[Job.SOURCE_STRIDE] = _rows(source)
        job[Job.OUT], job[Job.OUT_STRIDE] = _rows(out)
        if isinstance(weight, BlockedTensor):
            span, width = weight.row_bytes, weight.padded_row_bytes * (2 if weight.scheme == INT4 else 1)
            numbers, form, row_bytes = weight.qweight, weight.scheme, parts * weight.padded_row_bytes
            job[Job.WEIGHT_SCALES], job[Job.FIRST] = array(weight.scales).ctypes.data, weight.first
        else:
            assert isinstance(weight, Tensor)
            span = width = columns
            numbers, form, row_bytes = weight, _TYPES[weight.dtype], parts * weight[:1].nbytes
        job[Job.WEIGHT], job[Job.SPAN], job[Job.WIDTH] = array(numbers).ctypes.data, span, width
        memory = self._workspace.activations(batch, columns, span, width)
        held.append(memory)
        for place, part in memory.items():
            job[place] = part.ctypes.data
        if norm is not None:
            scale, eps = constant(norm[0]), np.array([norm[1]], np.float32)
            held += [scale, eps]
            job[Job.SCALE], job[Job.EPS], job[Job.HEAD] = scale.ctypes.data, eps.ctypes.data, len(scale)
            if columns % len(scale):
                raise ValueError(f"{columns} columns must be heads of {len(scale)}.")
        if gate is not None:
            job[Job.GATE], job[Job.GATE_STRIDE] = _rows(gate)
        if bias is not None:
            added = constant(bias)
            held.append(added)
            job[Job.BIAS] = added.ctypes.data
        step = CHUNK // max(1, row_bytes) // LANES * LANES if self.threads > 1 else rows
        job[Job.STEP] = max(LANES, step)
        job[Job.BLOCK] = max(4, NEAR // (2 * width) // 4 * 4)
        return Product(job, form, coded, self.threads, held)


def _rows(tensor: Tensor) -> tuple[int, int]:
    """Return the address and row stride of a float32 CPU matrix. Raises ValueError for other tensors."""
    if tensor.device.type != "cpu" or tensor.dtype != torch.float32 or tensor.stride(1) != 1:
        raise ValueError(
            f"A tensor of {list(tensor.shape)} must be float32 and contiguous by rows, on the CPU."
        )
    return tensor.data_ptr(), tensor.stride(0)


def multiply(x: Tensor, weight: QuantizedTensor, bias: Tensor | None = None) -> Tensor:
    """Return the result of `jet.ops.activations.linear_reference` in x's dtype.

    Uses as many threads as torch does.
    """
    rows = x.reshape(-1, weight.columns).float()
    out = torch.empty(len(rows), len(weight))
    if len(rows):
        Layers(torch.get_num_threads()).linear(rows.contiguous(), weight, bias, out)()
    return out.view(*x.shape[:-1], -1).to(x.dtype)


def read_rates(size: int, threads: int, runs: int, least: int) -> tuple[float, ...]:
    """Return the read bandwidth of memory in bytes per second, one value for each of `runs` runs.

    A run reads a buffer of `size` bytes repeatedly, until it has read `least` bytes, but at most 1000 times.
    """
    words = empty_in_huge_pages(-(-size // 8), dtype=torch.int64).fill_(1).numpy()  # where weights are, too
    step = CHUNK // 8
    chunks, reader = -(-len(words) // step), kernel("read_memory")
    sums = np.zeros(chunks, np.uint64)
    job = np.array([words.ctypes.data, len(words), step, sums.ctypes.data], np.int64)
    times, rates = min(-(-least // words.nbytes), 1000), []
    for _ in range(1 + runs):  # the first warms up
        started = time.perf_counter()
        for _ in range(times):
            POOL.run(reader.address, job.ctypes.data, chunks, threads)
        rates.append(times * words.nbytes / (time.perf_counter() - started))
    return tuple(rates[1:])


def describe(threads: int) -> str:
    """Return a description of the kernels for users, such as their instruction set."""
    return f"numba, {ISA}, {threads} threads" if threads > 1 else f"numba, {ISA}"
