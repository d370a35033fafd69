"""The sections of a report, in the order in which they are measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from jet.bench.report import efficiency, loading, machine, projections, sweeps, variants
from jet.bench.report.context import RunContext
from jet.bench.report.plan import ReportOptions
from jet.hardware import DTYPES
from jet.modeling.quantization import SCHEMES


class Section(NamedTuple):
    """A section: its name in the JSON, and the function that measures it."""

    name: str
    measure: Callable[[RunContext], dict[str, Any]]


def all_sections(options: ReportOptions) -> list[Section]:
    """Return the sections that a run measures, in order."""
    plan = options.plan
    return [
        Section("bandwidth", machine.measure),
        Section("loading", loading.measure),
        Section("standing", efficiency.measure),
        Section("kernels", efficiency.measure_kernels),
        *(
            Section(f"variant.{name}.{how}", partial(variants.measure, dtype=dtype, implementation=how))
            for name, dtype in DTYPES.items()
            for how in variants.IMPLEMENTATIONS
        ),
        *(
            Section(f"variant.{scheme}.{variants.OURS}", partial(variants.measure_quantized, quantize=scheme))
            for scheme in SCHEMES
        ),
        *(Section(f"context.{n}", partial(sweeps.measure_context, context=n)) for n in plan.contexts),
        *(Section(f"batch.{n}", partial(sweeps.measure_batch, batch=n)) for n in plan.batches),
        Section("projections", projections.measure),
    ]
