"""Section 5: points of the context sweep and the batch sweep, for the network and full attention in turn.

Both networks run in the bare loop of the engine's runner. The context sweep has one sequence; in the batch
sweep, sequences are prefilled one after the other and decoded together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from jet.api import SamplingParams
from jet.bench.bytes_moved import batched, decode_bytes_moved
from jet.bench.cases.decode import time_prefill_and_decode
from jet.bench.networks import Network
from jet.bench.options import BenchError, ImpossibleError
from jet.bench.report.context import RunContext, memory_is_full
from jet.bench.report.full_attention import count
from jet.bench.result import Metric
from jet.bench.samples import run_interleaved
from jet.roofline import BytesMoved

BATCH_CONTEXT = 512
NETWORK_LABELS = {"ours": "ours", "full": "full attention"}
_MAX_POINT_S = 20.0  # of a point's runs: where one takes long, there are fewer, but one


def measure_context(ctx: RunContext, context: int) -> dict[str, Any]:
    """Measure prefill and decode of one sequence with `context` tokens, fewer near the network's limit.

    Raises BenchError if `context` is above that limit.
    """
    most = ctx.config.max_position_embeddings
    if context > most:
        raise BenchError(f"this network holds {most:,} tokens")
    context = ctx.within(context, ctx.plan.tokens)
    return _measure(ctx, "context", {"ours": ctx.network, "full": ctx.full}, context, 1)


def measure_batch(ctx: RunContext, batch: int) -> dict[str, Any]:
    """Measure the prefill of `batch` sequences and the decoding of a few tokens of each."""
    context = ctx.within(BATCH_CONTEXT, ctx.plan.tokens)
    networks: dict[str, Network] = {}
    with ExitStack() as closing:
        for network_name in NETWORK_LABELS:
            networks |= _with_batch(ctx, network_name, context, batch, closing)
        return _measure(ctx, "batch", networks, context, batch)


def _with_batch(
    ctx: RunContext, network_name: str, context: int, batch: int, closing: ExitStack
) -> dict[str, Network]:
    """Return `network_name` → its network with a runner for `batch` sequences.

    If memory is too small, the result is empty, and `ctx.failed` says why. `closing` closes the runner.
    """
    model = (ctx.network if network_name == "ours" else ctx.full).model
    if ("batch", network_name) in ctx.failed:
        return {}
    try:
        network = ctx.with_runner(model, context + ctx.plan.tokens, batch)
    except BenchError as error:
        ctx.failed["batch", network_name] = str(error)
        return {}
    closing.callback(network.runner.close)
    return {network_name: network}


def _measure(
    ctx: RunContext, sweep: str, networks: dict[str, Network], context: int, batch: int
) -> dict[str, Any]:
    sampling = SamplingParams(max_new_tokens=ctx.plan.tokens, seed=0)
    prompt = ctx.prompt(context)
    cache_bytes: dict[str, int] = {}

    def run(network_name: str) -> dict[str, float]:
        def on_memory(memory: Mapping[str, int]) -> None:
            cache_bytes[network_name] = batch * sum(memory.values())

        network = networks[network_name]
        chunk = network.prefill_chunk
        return time_prefill_and_decode(
            network.runner, prompt, sampling, chunk, on_memory=on_memory, batch=batch
        )

    metrics, failed = run_networks(
        ctx, sweep, {network_name: partial(run, network_name) for network_name in networks}
    )
    failed |= {
        network_name: ctx.failed[sweep, network_name]
        for network_name in NETWORK_LABELS
        if network_name not in networks
    }
    ours = ctx.network
    saved = ours.runner.decode_step.saved_bytes
    bytes_moved = batched(decode_bytes_moved(ours.model, context, ctx.plan.tokens, saved), batch)
    if "ours" not in failed:
        _check_plausible(ctx, metrics, bytes_moved, batch)
    return {
        "figures": {name: metric.as_json() for name, metric in metrics.items()},
        "failed": failed,
        "floor": bytes_moved.total,
        "memory": {
            network_name: None if network_name in failed else cache_bytes[network_name]
            for network_name in NETWORK_LABELS
        },
        "context": context,
        "batch": batch,
        "parameters": {"ours": count(ours.model), "full": count(ctx.full.model)},
    }


def run_networks(
    ctx: RunContext, sweep: str, cases: dict[str, Callable[[], dict[str, float]]]
) -> tuple[dict[str, Metric], dict[str, str]]:
    """Run the networks in turn; return the figures, and the reason for each network without figures.

    A network for which memory was too small is left out of the larger points of a sweep. Raises MemoryError
    if none is left. `cases`: "ours" or "full" → a function that runs it once and returns its figures.
    """
    seconds = 0.0
    running = {
        network_name: run for network_name, run in cases.items() if (sweep, network_name) not in ctx.failed
    }
    for network_name, run in list(running.items()):  # warms up
        started = time.monotonic()
        try:
            run()
        except (MemoryError, RuntimeError) as error:
            if not memory_is_full(error):
                raise
            ctx.failed[sweep, network_name] = f"out of memory: {' '.join(str(error).split())[:200]}"
            del running[network_name]
            if ctx.device.type == "cuda":
                torch.cuda.empty_cache()
        seconds += time.monotonic() - started
    if not running:
        raise MemoryError("for both ours and full attention")
    rounds = [partial(_named, network_name, run) for network_name, run in running.items()]
    runs = max(1, min(ctx.plan.runs, int(_MAX_POINT_S / max(seconds, 1e-9))))
    samples_by_name = run_interleaved(rounds, 0, runs)
    metrics = {
        name: Metric(f"{NETWORK_LABELS[name.partition('.')[0]]}: {name.partition('.')[2]}", "tok/s", samples)
        for name, samples in samples_by_name.items()
    }
    return metrics, {
        network_name: ctx.failed[sweep, network_name] for network_name in cases if network_name not in running
    }


def _named(network_name: str, run: Callable[[], dict[str, float]]) -> dict[str, float]:
    return {f"{network_name}.{what}": value for what, value in run().items()}


def _check_plausible(
    ctx: RunContext, metrics: dict[str, Metric], bytes_moved: BytesMoved, batch: int
) -> None:
    """Raise ImpossibleError if the network's speed exceeds what this run's measurements of the machine allow.

    Decoding is compared with the measured bandwidth, prefill with the fastest matrix product.
    """
    efficiency, bandwidth = ctx.report.data("standing"), ctx.report.data("bandwidth")
    if efficiency is not None:
        moved = metrics["ours.decode"].samples.median / batch * bytes_moved.total
        refuse_impossible("decoding", moved, efficiency["bandwidth"]["best"], "bytes")
    if bandwidth is not None:
        products = [metric["max"] for name, metric in bandwidth["figures"].items() if name != "copy"]
        work = 2 * (ctx.elements - ctx.config.vocab_size * ctx.config.hidden_size)
        refuse_impossible(
            "reading", metrics["ours.prefill"].samples.median * work, max(products), "operations"
        )


def refuse_impossible(doing: str, found: float, most: float, what: str) -> None:
    """Raise ImpossibleError if `found`, a number of bytes or operations a second, exceeds `most`.

    Args:
        doing: the measured activity, for the message.
        found: the rate of that activity.
        most: the highest rate that was measured on this machine.
        what: the unit, "bytes" or "operations".
    """
    if found > most:
        raise ImpossibleError(
            f"The measurement is wrong: {doing} would have done {found:.3g} {what} a second, and the most "
            f"that this run has seen is {most:.3g}. Was the machine busy meanwhile?"
        )
