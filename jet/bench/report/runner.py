"""Run the sections of a report one after the other; store each result at once, and go on after errors."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from jet import hardware
from jet.bench.options import ImpossibleError
from jet.bench.report import sections
from jet.bench.report.context import RunContext, memory_is_full
from jet.bench.report.data import (
    MEASURED,
    NOT_MEASURED,
    SCHEMA,
    OnProgress,
    Report,
    ReportProgress,
    load,
    save,
)
from jet.bench.report.machine import describe
from jet.bench.report.plan import ReportOptions
from jet.modeling.finite import NotFiniteError

PARTIAL = "report.partial.json"
INTERRUPTED = "interrupted"
# Of a machine's description, what may differ between two runs that are still one.
_VOLATILE = ("load", "device_name")


def run(
    options: ReportOptions,
    on_progress: OnProgress = lambda progress: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Report:
    """Measure all sections, except those that an interrupted run has stored in the same folder.

    `on_progress` is called before each part and after the last. If `cancelled` returns true, the run ends
    before the next part; Ctrl-C ends it within a part. Either way the report of the finished parts is
    returned, and the folder keeps them for a later run.

    Raises ImpossibleError for an impossible figure, HardwareError for a missing device, and NotFiniteError if
    the network's weights are not finite.
    """
    device = hardware.choose_device(options.device)
    partial = options.output / PARTIAL
    report = _resume(partial, options, device)
    ctx = RunContext(options, device, report)
    planned = sections.all_sections(options)
    try:
        for number, section in enumerate(planned):
            if cancelled():
                raise KeyboardInterrupt
            on_progress(ReportProgress(section.name, number, len(planned)))
            if section.name not in report.parts:
                report.parts[section.name] = _measure(section, ctx)
                save(report, partial)
    except ImpossibleError:
        partial.unlink(missing_ok=True)  # the yardstick may be what is wrong: a new run measures it anew
        raise
    except KeyboardInterrupt:
        report.document["stopped"] = INTERRUPTED
        return _with_missing(report, planned)
    finally:
        ctx.release()
    on_progress(ReportProgress("", len(planned), len(planned)))
    partial.unlink(missing_ok=True)
    return report


def _measure(section: sections.Section, ctx: RunContext) -> dict[str, Any]:
    """Measure one section; return the part that report.json stores.

    Its errors are recorded in the part. Only an impossible figure and weights that are not finite are raised.
    """
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    started = time.monotonic()
    data, reason = None, None
    try:
        data = section.measure(ctx)
    except (ImpossibleError, NotFiniteError):  # of this network nothing can be measured
        raise
    except Exception as error:
        ctx.release()
        reason = f"out of memory: {_one_line(error)}" if memory_is_full(error) else _one_line(error)
    status = MEASURED if reason is None else NOT_MEASURED
    seconds = time.monotonic() - started
    return {"status": status, "reason": reason, "seconds": seconds, "load": load, "data": data}


def _one_line(error: BaseException) -> str:
    """Format an error in one line."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 300 else words[:300] + " …"


def _resume(partial: Path, options: ReportOptions, device: torch.device) -> Report:
    """Load an interrupted run of the same options on the same machine; otherwise start empty."""
    fresh = Report(
        {
            "schema": SCHEMA,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "options": options.as_json(),
            "machine": describe(device),
            "stopped": None,
            "parts": {},
        }
    )
    if not partial.exists():
        return fresh
    try:
        earlier = load(partial)
    except ValueError:
        return fresh
    return earlier if _identity(earlier) == _identity(fresh) else fresh


def _identity(report: Report) -> tuple[Any, ...]:
    machine = {name: value for name, value in report.document["machine"].items() if name not in _VOLATILE}
    return report.document["options"], machine


def _with_missing(report: Report, planned: list[sections.Section]) -> Report:
    """Add a "not measured" entry for each section that the run has not reached."""
    rest = {
        section.name: {
            "status": NOT_MEASURED,
            "reason": INTERRUPTED,
            "seconds": 0.0,
            "load": None,
            "data": None,
        }
        for section in planned
        if section.name not in report.parts
    }
    return Report({**report.document, "parts": {**report.parts, **rest}})
