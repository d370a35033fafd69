"""Section 3: the floor of one token, what is reached of it, and the operations of a step."""

from __future__ import annotations

from typing import Any

from jet.bench.cases import decode, kernels
from jet.bench.report.context import Bench

CONTEXT = 512


def measure(bench: Bench) -> dict[str, Any]:
    """Decode through the engine and in a bare loop beside it, against the floor."""
    bench.release()
    plan = bench.plan
    tokens = min(plan.standing_tokens, bench.config.max_position_embeddings // 2)
    context = bench.within(CONTEXT, tokens)
    options = bench.options.bench(context=context, tokens=tokens, runs=plan.standing_runs)
    return decode.measure(options).as_json() | {"elements": bench.elements}


def measure_kernels(bench: Bench) -> dict[str, Any]:
    """Where the time of a step goes, operation by operation."""
    bench.release()
    context = bench.within(CONTEXT, 4)
    return kernels.measure(bench.options.bench("kernels", context=context, runs=5)).as_json()


def int8_gain(standing: dict[str, Any]) -> float | None:
    """How much faster a token could be at the share now reached if a weight took one byte.

    None where weights take hardly more than that already.
    """
    floor, elements = standing["floor"], standing["elements"]
    smaller = floor["total"] - floor["weights"] + elements
    return floor["total"] / smaller if 1.1 * elements < floor["weights"] else None


def time_parts(standing: dict[str, Any], step: dict[str, Any] | None) -> dict[str, float]:
    """Seconds of one token at the engine's median speed, in parts that add up: what for → how long.

    The floor; what the operations of a step take beyond it; what is left, between the steps.
    """
    token = 1 / standing["figures"]["engine"]["median"]
    floor = standing["floor"]["seconds"]
    if step is None or step["figures"]["step"]["median"] > token:  # on a noisy machine they do not nest
        return {"floor": floor, "everything else": token - floor}
    operations = max(step["figures"]["step"]["median"], floor)
    return {
        "floor": floor,
        "operations of the step beyond the floor": operations - floor,
        "choosing the token, the engine, text": token - operations,
    }
