"""Section 5: one point of the context or the batch sweep, ours and full attention in turn.

Both run in the bare loop of the engine's runner: one story over the context, and as many as there are over
the batch, which read their prompts one after the other and then write together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from jet.api import SamplingParams
from jet.bench.bytes_moved import decode_floor, together
from jet.bench.cases.decode import read_and_write
from jet.bench.networks import Network
from jet.bench.options import BenchError, ImpossibleError
from jet.bench.report.context import Bench, memory_is_full
from jet.bench.report.full_attention import count
from jet.bench.result import Figure
from jet.bench.samples import alternate
from jet.roofline import Floor

BATCH_CONTEXT = 512
LABELS = {"ours": "ours", "full": "full attention"}
_ENOUGH_S = 20.0  # of a point's runs: where one takes long, there are fewer, but one


def measure_context(bench: Bench, context: int) -> dict[str, Any]:
    """Read so many tokens and decode a few, with one sequence; a little less where that is all there is."""
    most = bench.config.max_position_embeddings
    if context > most:
        raise BenchError(f"this network holds {most:,} tokens")
    context = bench.within(context, bench.plan.tokens)
    return _measure(bench, "context", {"ours": bench.network, "full": bench.full}, context, 1)


def measure_batch(bench: Bench, batch: int) -> dict[str, Any]:
    """Read a prompt in so many rows and decode a few tokens of each."""
    context = bench.within(BATCH_CONTEXT, bench.plan.tokens)
    networks: dict[str, Network] = {}
    with ExitStack() as closing:
        for who in LABELS:
            networks |= _with_writers(bench, who, context, batch, closing)
        return _measure(bench, "batch", networks, context, batch)


def _with_writers(bench: Bench, who: str, context: int, batch: int, closing: ExitStack) -> dict[str, Network]:
    """A network by its name, with a runner for so many; nothing if it had or has no memory for that."""
    model = (bench.network if who == "ours" else bench.full).model
    if ("batch", who) in bench.failed:
        return {}
    try:
        network = bench.with_runner(model, context + bench.plan.tokens, batch)
    except BenchError as error:
        bench.failed["batch", who] = str(error)
        return {}
    closing.callback(network.runner.close)
    return {who: network}


def _measure(
    bench: Bench, sweep: str, networks: dict[str, Network], context: int, batch: int
) -> dict[str, Any]:
    sampling = SamplingParams(max_new_tokens=bench.plan.tokens, seed=0)
    prompt = bench.prompt(context)
    kept: dict[str, int] = {}

    def run(who: str) -> dict[str, float]:
        def note(memory: Mapping[str, int]) -> None:
            kept[who] = batch * sum(memory.values())

        network = networks[who]
        chunk = network.prefill_chunk
        return read_and_write(network.runner, prompt, sampling, chunk, note=note, writers=batch)

    figures, failed = compare(bench, sweep, {who: partial(run, who) for who in networks})
    failed |= {who: bench.failed[sweep, who] for who in LABELS if who not in networks}
    ours = bench.network
    saved = ours.runner.decode_step.saved_bytes
    floor = together(decode_floor(ours.model, context, bench.plan.tokens, saved), batch)
    if "ours" not in failed:
        _check(bench, figures, floor, batch)
    return {
        "figures": {name: figure.as_json() for name, figure in figures.items()},
        "failed": failed,
        "floor": floor.total,
        "memory": {who: None if who in failed else kept[who] for who in LABELS},
        "context": context,
        "batch": batch,
        "parameters": {"ours": count(ours.model), "full": count(bench.full.model)},
    }


def compare(
    bench: Bench, sweep: str, contenders: dict[str, Callable[[], dict[str, float]]]
) -> tuple[dict[str, Figure], dict[str, str]]:
    """Run everyone in turn. Returns the figures, and why there are none of those whom memory did not suffice.

    They are left out of the larger points that follow in this sweep. Raises MemoryError if nobody is left.
    """
    seconds = 0.0
    running = {who: run for who, run in contenders.items() if (sweep, who) not in bench.failed}
    for who, run in list(running.items()):  # warms up
        started = time.monotonic()
        try:
            run()
        except (MemoryError, RuntimeError) as error:
            if not memory_is_full(error):
                raise
            bench.failed[sweep, who] = f"out of memory: {' '.join(str(error).split())[:200]}"
            del running[who]
            if bench.device.type == "cuda":
                torch.cuda.empty_cache()
        seconds += time.monotonic() - started
    if not running:
        raise MemoryError("for both ours and full attention")
    rounds = [partial(_named, who, run) for who, run in running.items()]
    runs = max(1, min(bench.plan.runs, int(_ENOUGH_S / max(seconds, 1e-9))))
    spreads = alternate(rounds, 0, runs)
    figures = {
        name: Figure(f"{LABELS[name.partition('.')[0]]}: {name.partition('.')[2]}", "tok/s", spread)
        for name, spread in spreads.items()
    }
    return figures, {who: bench.failed[sweep, who] for who in contenders if who not in running}


def _named(who: str, run: Callable[[], dict[str, float]]) -> dict[str, float]:
    return {f"{who}.{what}": value for what, value in run().items()}


def _check(bench: Bench, figures: dict[str, Figure], floor: Floor, batch: int) -> None:
    """Hold ours against the fastest copy and the fastest matrix product that were seen in this run."""
    standing, bandwidth = bench.report.data("standing"), bench.report.data("bandwidth")
    if standing is not None:
        moved = figures["ours.decode"].spread.median / batch * floor.total
        check("decoding", moved, standing["bandwidth"]["best"], "bytes")
    if bandwidth is not None:
        products = [figure["max"] for name, figure in bandwidth["figures"].items() if name != "copy"]
        work = 2 * (bench.elements - bench.config.vocab_size * bench.config.hidden_size)
        check("reading", figures["ours.prefill"].spread.median * work, max(products), "operations")


def check(doing: str, found: float, most: float, what: str) -> None:
    """Raise ImpossibleError if `found` bytes or operations a second are more than the most that was seen."""
    if found > most:
        raise ImpossibleError(
            f"The measurement is wrong: {doing} would have done {found:.3g} {what} a second, and the most "
            f"that this run has seen is {most:.3g}. Was the machine busy meanwhile?"
        )
