"""`kernels`: where the time of a step goes, operation by operation.

All calls of one kind, in all layers, are run behind each other as they are in a step; on CUDA as one graph.
The time given is that of all of them in one token, and the speed that at which they move their bytes: weights
and state, not the keys and values of attention. A kind whose bytes fit a cache is read from there, and is
then faster than in a step. Operations that overlap in a step take less time there than here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from operator import truediv

import torch

from jet.bench import networks
from jet.bench.bandwidth import measure_ceiling
from jet.bench.bytes_moved import decode_floor
from jet.bench.options import Options
from jet.bench.result import Figure, Report
from jet.bench.samples import Spread, alternate
from jet.engine.decode_step import StepOp
from jet.hardware import synchronize

REPEATS = 20  # of one measurement: a clock is then far finer than what it measures
WHOLE = "step"


def measure(options: Options) -> Report:
    """Load the network, read the context, and time each kind of operation."""
    network = networks.load(options)
    floor = decode_floor(network.model, options.context, 2, network.runner.decode_step.saved_bytes)
    ceiling = measure_ceiling(floor, network.device, networks.decode_threads(network.model))
    parts = network.runner.decode_step.ops
    kinds = {WHOLE: parts, **by_kind(parts)}
    spreads = time_kinds(network, kinds, options)
    figures = {name: Figure(describe(name, kinds[name]), "s", spread) for name, spread in spreads.items()}
    speeds = {
        name: Figure(f"{name}, moved at", "B/s", spread.map(partial(truediv, size)))
        for name, spread in spreads.items()
        if (size := sum(part.nbytes for part in kinds[name]))
    }
    share = ceiling.share(spreads[WHOLE].median)
    return Report(options, network.info, figures, ceiling, {WHOLE: share}, speeds)


def time_kinds(
    network: networks.Network, kinds: Mapping[str, list[StepOp]], options: Options
) -> dict[str, Spread]:
    """Seconds of one token in each kind of operations, after the network's prompt."""
    with torch.inference_mode(), reached(network, options):
        runs = {name: timer(parts, network.device) for name, parts in kinds.items()}
        contenders = [lambda: {name: run() for name, run in runs.items()}]
        return alternate(contenders, options.warm_up, options.runs)


@contextmanager
def reached(network: networks.Network, options: Options) -> Iterator[None]:
    """A row at the prompt's length: attention then reads what it reads there."""
    sequence = network.runner.allocate(options.sampling)
    try:
        for begin in range(0, len(network.prompt), network.prefill_chunk):
            network.runner.prefill(sequence, network.prompt[begin : begin + network.prefill_chunk])
        for _ in range(2):
            network.runner.decode_one(sequence)
        yield
    finally:
        network.runner.free(sequence)


def by_kind(parts: list[StepOp]) -> dict[str, list[StepOp]]:
    """The operations of each kind, in the order in which the kinds first occur."""
    kinds: dict[str, list[StepOp]] = {}
    for part in parts:
        kinds.setdefault(part.name, []).append(part)
    return kinds


def describe(name: str, parts: list[StepOp]) -> str:
    """The kind, how many there are, and what they move."""
    size = sum(part.nbytes for part in parts)
    return f"{name}, {len(parts)} calls{f', {size / 1e6:,.1f} MB' if size else ''}"


def timer(parts: list[StepOp], device: torch.device) -> Callable[[], float]:
    """A function that gives the seconds of one run of these operations, the mean of a few."""

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
