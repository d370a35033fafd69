"""Section 2: loading, warm-up, first token and generation; loading once compared with loading per request.

All is measured in this process, so importing libraries is not included. `python -m jet.bench start` measures
the imports.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jet.api import RequestStats, SamplingParams
from jet.bench import networks
from jet.bench.report.context import RunContext
from jet.bench.requests import run_request, token_request
from jet.bench.result import Metric
from jet.bench.samples import Samples
from jet.engine.engine import LocalEngine

REQUESTS = 4
TOKENS, CONTEXT = 200, 100
_WARM_UP = SamplingParams(max_new_tokens=8, seed=0)
_LABELS = {
    "load": ("loading the weights", "s"),
    "warm_up": ("warm-up", "s"),
    "first_token": ("first token, after a prompt of 100", "s"),
    "generation": ("200 tokens, from the request to the last", "s"),
    "speed": ("speed, from the first token to the last", "tok/s"),
}


def measure(ctx: RunContext) -> dict[str, Any]:
    """Load, warm up and serve one request, four times; after the last load, serve three more requests.

    The seconds of four requests with one load are then compared with those of a load for each request.
    """
    ctx.release()
    room = ctx.config.max_position_embeddings // 2
    tokens, context = min(TOKENS, room), min(CONTEXT, room)
    sampling = SamplingParams(max_new_tokens=tokens, seed=0)
    rounds: list[dict[str, float]] = []
    for number in range(REQUESTS):
        with _engine(ctx, context) as (engine, prompt):
            stats = run_request(engine, prompt, sampling)
            rounds.append(_times(engine, stats))
            if number == REQUESTS - 1:
                later = [total(run_request(engine, prompt, sampling)) for _ in range(REQUESTS - 1)]
    metrics = {
        name: Metric(*label, Samples(tuple(found[name] for found in rounds))).as_json()
        for name, label in _LABELS.items()
    }
    each = [sum(found[name] for name in ("load", "warm_up", "generation")) for found in rounds]
    once = [each[-1], *later]
    return {
        "figures": metrics,
        "tokens": tokens,
        "context": context,
        "requests": REQUESTS,
        "once": {"values": once, "total": sum(once)},
        "reload": {"values": each, "total": sum(each)},
        "process_bytes": stats.process_memory_bytes,
        "device_bytes": stats.device_peak_bytes,
    }


@contextmanager
def _engine(ctx: RunContext, context: int) -> Iterator[tuple[LocalEngine, list[int]]]:
    network = networks.load(ctx.options.bench_options(context=context))
    with networks.serve(network) as engine:
        engine.warm_up(token_request(network.prompt, _WARM_UP))
        yield engine, network.prompt


def _times(engine: LocalEngine, stats: RequestStats) -> dict[str, float]:
    info = engine.info()
    assert info.load_s is not None and info.warmup_s is not None
    assert stats.time_to_first_token_s is not None and stats.mean_tokens_per_second is not None
    return {
        "load": info.load_s,
        "warm_up": info.warmup_s,
        "first_token": stats.time_to_first_token_s,
        "generation": total(stats),
        "speed": stats.mean_tokens_per_second,
    }


def total(stats: RequestStats) -> float:
    """Return the seconds from a request's start to its last token, for requests of at least two tokens."""
    assert stats.time_to_first_token_s is not None and stats.mean_tokens_per_second is not None
    return stats.time_to_first_token_s + (stats.tokens - 1) / stats.mean_tokens_per_second
