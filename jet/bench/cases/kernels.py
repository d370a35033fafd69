"""`kernels`: measure the time that a decode step spends in each kind of operation.

The operations of one kind in all layers are run one after the other, on CUDA as one graph. The result is
the time of all of them, and the bandwidth at which they move weights and states (keys and values of attention
are not counted). Their time within a real step differs: here, weights that fit in a cache are read from the
cache, and operations that overlap in a step do not overlap.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from operator import truediv

import torch

from jet.bench import networks
from jet.bench.bandwidth import measure_bandwidth
from jet.bench.bytes_moved import decode_bytes_moved
from jet.bench.options import Options
from jet.bench.result import CaseResult, Metric
from jet.bench.samples import Samples, run_interleaved
from jet.engine.decode_step import StepOp
from jet.hardware import synchronize

REPEATS = 20  # of one measurement: a clock is then far finer than what it measures
WHOLE_STEP = "step"


def measure(options: Options) -> CaseResult:
    """Load the network, prefill the context, and measure each kind of operation."""
    network = networks.load(options)
    bytes_moved = decode_bytes_moved(
        network.model, options.context, 2, network.runner.decode_step.saved_bytes
    )
    bandwidth = measure_bandwidth(bytes_moved, network.device, networks.decode_threads(network.model))
    parts = network.runner.decode_step.ops
    kinds = {WHOLE_STEP: parts, **group_by_kind(parts)}
    samples_by_name = time_op_kinds(network, kinds, options)
    metrics = {
        name: Metric(describe(name, kinds[name]), "s", samples) for name, samples in samples_by_name.items()
    }
    speeds = {
        name: Metric(f"{name}, moved at", "B/s", samples.map(partial(truediv, size)))
        for name, samples in samples_by_name.items()
        if (size := sum(part.nbytes for part in kinds[name]))
    }
    utilization = bandwidth.utilization(samples_by_name[WHOLE_STEP].median)
    return CaseResult(options, network.info, metrics, bandwidth, {WHOLE_STEP: utilization}, speeds)


def time_op_kinds(
    network: networks.Network, kinds: Mapping[str, list[StepOp]], options: Options
) -> dict[str, Samples]:
    """Measure the seconds that each kind of operation takes in one step after the network's prompt.

    `kinds`: name of a kind → its operations.
    """
    with torch.inference_mode(), prefilled(network, options):
        runs = {name: make_timer(parts, network.device) for name, parts in kinds.items()}
        cases = [lambda: {name: run() for name, run in runs.items()}]
        return run_interleaved(cases, options.warm_up, options.runs)


@contextmanager
def prefilled(network: networks.Network, options: Options) -> Iterator[None]:
    """Prefill the network's prompt, so that the step's attention reads its keys and values.

    The sequence is freed when the context manager exits.
    """
    sequence = network.runner.allocate(options.sampling)
    try:
        for begin in range(0, len(network.prompt), network.prefill_chunk):
            network.runner.prefill(sequence, network.prompt[begin : begin + network.prefill_chunk])
        for _ in range(2):
            network.runner.decode_one(sequence)
        yield
    finally:
        network.runner.free(sequence)


def group_by_kind(parts: list[StepOp]) -> dict[str, list[StepOp]]:
    """Group operations by kind, in the order in which the kinds first occur."""
    kinds: dict[str, list[StepOp]] = {}
    for part in parts:
        kinds.setdefault(part.name, []).append(part)
    return kinds


def describe(name: str, parts: list[StepOp]) -> str:
    """Describe a group: its kind, the number of operations, and the megabytes that they move."""
    size = sum(part.nbytes for part in parts)
    return f"{name}, {len(parts)} calls{f', {size / 1e6:,.1f} MB' if size else ''}"


def make_timer(parts: list[StepOp], device: torch.device) -> Callable[[], float]:
    """Return a function that measures the mean seconds of one run of these operations."""

    def run() -> None:
        for part in parts:
            part.run()

    run()
    launch = run
    if device.type == "cuda":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        launch = graph.replay

    def seconds(read: list[StepOp] = parts) -> float:  # kept with it: a graph does not keep what it reads
        synchronize(device)
        started = time.perf_counter()
        for _ in range(REPEATS):
            launch()
        synchronize(device)
        return (time.perf_counter() - started) / REPEATS

    return seconds
