"""Section 5: one point of the context or the batch sweep, ours and full attention in turn.

Over the context ours is the bare loop of the engine's runner. The engine decodes one sequence at a time, so
over the batch ours runs through plain `generate()`, as full attention does throughout.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from jet.bench import baseline, networks
from jet.bench.decode import read_and_write
from jet.bench.floor import decode_floor
from jet.bench.measure import alternate
from jet.bench.options import BenchError, ImpossibleError
from jet.bench.report import Figure
from jet.engine.types import SamplingParams
from jet.footprint import Floor
from jet.report.bench import Bench, memory_is_full
from jet.report.full_attention import cache_bytes, count, full_attention_config

BATCH_CONTEXT = 512
_LABELS = {"ours": "ours", "full": "full attention, generate()"}
_ENOUGH_S = 60.0  # a point that takes longer is run once, not several times


def measure_context(bench: Bench, context: int) -> dict[str, Any]:
    """Read so many tokens and decode a few, with one sequence."""
    tokens = bench.plan.tokens
    most = bench.config.max_position_embeddings
    if context + tokens > most:
        raise BenchError(f"this network holds {most:,} tokens")
    sampling = SamplingParams(max_new_tokens=tokens, seed=0)
    prompt, network = bench.prompt(context), bench.network
    kept: dict[str, int] = {}

    def ours() -> dict[str, float]:
        return read_and_write(network.runner, prompt, sampling, network.prefill_chunk, note=kept.update)

    def full() -> dict[str, float]:
        return _generate(bench, bench.full, prompt, sampling, 1)

    figures, failed = compare(bench, "context", {"ours": ours, "full": full})
    floor = decode_floor(network.model, context, tokens, network.runner.fused_step.saved_bytes)
    return _point(bench, figures, failed, floor, context, 1, sum(kept.values()))


def measure_batch(bench: Bench, batch: int) -> dict[str, Any]:
    """Read a prompt in so many rows and decode a few tokens of each."""
    tokens = bench.plan.tokens
    context = bench.within(BATCH_CONTEXT, tokens)
    sampling = SamplingParams(max_new_tokens=tokens, seed=0)
    prompt, model = bench.prompt(context), bench.network.model

    def ours() -> dict[str, float]:
        return _generate(bench, model, prompt, sampling, batch)

    def full() -> dict[str, float]:
        return _generate(bench, bench.full, prompt, sampling, batch)

    figures, failed = compare(bench, "batch", {"ours": ours, "full": full})
    one = decode_floor(model, context, tokens)
    states = {name: batch * size for name, size in vars(one).items() if name != "weights"}
    # The state is read and written, keys and values are only read.
    kept = (states["recurrent"] + states["conv"]) // 2 + states["window_kv"] + states["full_kv"]
    return _point(bench, figures, failed, Floor(one.weights, **states), context, batch, kept)


def _generate(
    bench: Bench, model: PreTrainedModel, prompt: list[int], sampling: SamplingParams, batch: int
) -> dict[str, float]:
    threads = None
    if bench.device.type == "cpu":
        # One row is quickest with the threads that the engine takes, several with all.
        network = bench.network
        threads = networks.decode_threads(network.model) if batch == 1 else network.threads
    clock = baseline.generate(model, prompt, sampling, threads, batch)
    return {
        "prefill": batch * len(prompt) / clock.first_token_s,
        "decode": batch * clock.tokens_per_second,
    }


def compare(
    bench: Bench, sweep: str, contenders: dict[str, Callable[[], dict[str, float]]]
) -> tuple[dict[str, Figure], dict[str, str]]:
    """Run everyone in turn. Returns the figures, and why there are none of those whom memory did not suffice.

    They are left out of the larger points that follow in this sweep. Raises MemoryError if nobody is left.
    """
    slow = False
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
        slow = slow or time.monotonic() - started > _ENOUGH_S / bench.plan.runs
    if not running:
        raise MemoryError("for both ours and full attention")
    rounds = [partial(_named, who, run) for who, run in running.items()]
    spreads = alternate(rounds, 0, 1 if slow else bench.plan.runs)
    figures = {
        name: Figure(f"{_LABELS[name.partition('.')[0]]}: {name.partition('.')[2]}", "tok/s", spread)
        for name, spread in spreads.items()
    }
    return figures, {who: bench.failed[sweep, who] for who in contenders if who not in running}


def _named(who: str, run: Callable[[], dict[str, float]]) -> dict[str, float]:
    return {f"{who}.{what}": value for what, value in run().items()}


def _point(
    bench: Bench,
    figures: dict[str, Figure],
    failed: dict[str, str],
    floor: Floor,
    context: int,
    batch: int,
    kept: int,
) -> dict[str, Any]:
    ours, full = bench.network.model, full_attention_config(bench.config, count(bench.network.model))
    if "ours" not in failed:
        _check(bench, figures, floor, batch)
    length = context + bench.plan.tokens - 1
    memory = {"ours": kept, "full": batch * cache_bytes(full, length, ours.dtype.itemsize)}
    return {
        "figures": {name: figure.as_json() for name, figure in figures.items()},
        "failed": failed,
        "floor": floor.total,
        "memory": {who: None if who in failed else size for who, size in memory.items()},
        "context": context,
        "batch": batch,
        "parameters": {"ours": count(ours), "full": None if "full" in failed else count(bench.full)},
    }


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
