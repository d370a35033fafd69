"""The parts of a run, in the order in which they are measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from jet.bench.report import efficiency, loading, machine, projections, sweeps, variants
from jet.bench.report.context import Bench
from jet.bench.report.plan import ReportOptions
from jet.hardware import DTYPES
from jet.modeling.quantization import SCHEMES


class Part(NamedTuple):
    """One thing to measure: its name in the JSON, and how it is done."""

    name: str
    measure: Callable[[Bench], dict[str, Any]]


def all_parts(options: ReportOptions) -> list[Part]:
    """What a run of these options measures."""
    plan = options.plan
    return [
        Part("bandwidth", machine.measure),
        Part("loading", loading.measure),
        Part("standing", efficiency.measure),
        Part("kernels", efficiency.measure_kernels),
        *(
            Part(f"variant.{name}.{how}", partial(variants.measure, dtype=dtype, implementation=how))
            for name, dtype in DTYPES.items()
            for how in variants.IMPLEMENTATIONS
        ),
        *(
            Part(f"variant.{scheme}.{variants.OURS}", partial(variants.measure_quantised, quantize=scheme))
            for scheme in SCHEMES
        ),
        *(Part(f"context.{n}", partial(sweeps.measure_context, context=n)) for n in plan.contexts),
        *(Part(f"batch.{n}", partial(sweeps.measure_batch, batch=n)) for n in plan.batches),
        Part("projections", projections.measure),
    ]
