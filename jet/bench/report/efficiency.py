"""Section 3: the bandwidth utilization of decoding, and the operations of a step."""

from __future__ import annotations

from typing import Any

from jet.bench.cases import decode, kernels
from jet.bench.report.context import RunContext

CONTEXT = 512


def measure(ctx: RunContext) -> dict[str, Any]:
    """Measure decoding through the engine and in the bare loop, with the utilization of both."""
    ctx.release()
    plan = ctx.plan
    tokens = min(plan.efficiency_tokens, ctx.config.max_position_embeddings // 2)
    context = ctx.within(CONTEXT, tokens)
    options = ctx.options.bench_options(context=context, tokens=tokens, runs=plan.efficiency_runs)
    return decode.measure(options).as_json() | {"elements": ctx.elements}


def measure_kernels(ctx: RunContext) -> dict[str, Any]:
    """Measure the time of a decode step, one kind of operation after the other."""
    ctx.release()
    context = ctx.within(CONTEXT, 4)
    return kernels.measure(ctx.options.bench_options("kernels", context=context, runs=5)).as_json()


def int8_speedup(efficiency: dict[str, Any]) -> float | None:
    """Return the expected decode speedup of one-byte weights at the same bandwidth utilization.

    The result is None if weights take at most 1.1 bytes each already.
    """
    floor, elements = efficiency["floor"], efficiency["elements"]
    smaller = floor["total"] - floor["weights"] + elements
    return floor["total"] / smaller if 1.1 * elements < floor["weights"] else None


def time_breakdown(efficiency: dict[str, Any], step: dict[str, Any] | None) -> dict[str, float]:
    """Split the seconds of one token at the engine's median speed into parts that add up: name → seconds.

    The parts are the roofline minimum, the time of the step's operations beyond it, and the remaining time
    between steps. If `step` is None or takes longer than the token, the last two are one part.
    """
    token = 1 / efficiency["figures"]["engine"]["median"]
    floor = efficiency["floor"]["seconds"]
    if step is None or step["figures"]["step"]["median"] > token:  # on a noisy machine they do not nest
        return {"floor": floor, "everything else": token - floor}
    operations = max(step["figures"]["step"]["median"], floor)
    return {
        "floor": floor,
        "operations of the step beyond the floor": operations - floor,
        "choosing the token, the engine, text": token - operations,
    }
