"""Report: the data of report.json, from which everything that a report shows is computed.

The file is one object:

    schema     1; another number if the meaning of any field changes
    created    when the run began, ISO 8601, UTC
    options    model, config, device, dtype, quantize, full
    machine    as in jet/bench/result.py, and: memory, device_memory (bytes), capability ("9.0"), driver,
               accelerators (optional packages found: name → version); each is null if it does not exist
    stopped    why the run ended early; null if it did not
    parts      name → the outcome of each section, in the order of measuring

A part is {status, reason, seconds, load, data}. `status` is "measured" or "not measured", `reason` says why
not, `load` is the load average before it, `data` holds the figures. A figure is {label, unit, median, q1, q3,
min, max, values}; all others are computed from the values. The data of each part:

    bandwidth          figures: copy (B/s, read and write), product_<dtype> (FLOP/s of a square product)
    loading            figures: load, warm_up, first_token, generation (s), speed (tok/s); tokens; context;
                       requests: the number of requests compared; once: {values, total}, the seconds of each
                       request and their sum if the model is loaded once; reload: the same if it is loaded
                       for each request; process_bytes, device_bytes
    standing           the JSON of `python -m jet.bench decode`; and elements: the number of weights that a
                       token reads
    kernels            the JSON of `python -m jet.bench kernels`
    variant.<dtype>.<implementation>
                       figures: decode (tok/s); deviation, from float64: {relative, logprob, agreement,
                       positions}, of the logits as vectors (null for "ours"), the largest difference of a
                       log-probability (nats), the share of positions with the same likeliest token, and
                       their number
    variant.<int8 or int4>.ours
                       the same for quantized weights; the deviation is that of the network's forward
    context.<N>, batch.<B>
                       figures: ours.decode, full.decode (tok/s, of all sequences together), ours.prefill,
                       full.prefill (tok/s); failed: why figures of ours or of full are missing; floor (bytes
                       of one step of ours); memory: ours, full (bytes of all sequences' states, null if
                       failed); context, batch, parameters: ours, full
    projections        share: this GPU's bandwidth utilization, null for a CPU; networks: name → {bytes,
                       rows: [{card, bandwidth, fits, ceiling, projected}]}, where ceiling = bandwidth / bytes
                       and projected = share × ceiling, both in tok/s
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jet.bench.options import BenchError

SCHEMA = 1
MEASURED, NOT_MEASURED = "measured", "not measured"


@dataclass(frozen=True)
class ReportProgress:
    """The progress of a run: the name of the section that begins, its index, and the number of sections.

    After the last section, `part` is empty and `done` equals `total`.
    """

    part: str
    done: int
    total: int


@dataclass(frozen=True)
class Report:
    """Wraps the JSON object of report.json."""

    document: dict[str, Any]

    @property
    def parts(self) -> dict[str, dict[str, Any]]:
        """Return the outcome of each section by its name."""
        parts: dict[str, dict[str, Any]] = self.document["parts"]
        return parts

    def data(self, name: str) -> dict[str, Any] | None:
        """Return the data of a part; None if it was not measured."""
        part = self.parts.get(name)
        return part["data"] if part is not None and part["status"] == MEASURED else None

    def reason(self, name: str) -> str:
        """Return why a part was not measured."""
        return str(self.parts[name]["reason"]) if name in self.parts else "the run did not get there"

    def under(self, prefix: str) -> dict[str, dict[str, Any]]:
        """Return the parts whose names begin with `prefix`; the keys are the names without it."""
        return {name[len(prefix) :]: part for name, part in self.parts.items() if name.startswith(prefix)}

    def metrics(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield every measured figure with its path, as "context.512/ours.decode"."""
        for name, part in self.parts.items():
            for key, figure in ((part["data"] or {}).get("figures") or {}).items():
                yield f"{name}/{key}", figure


def load(path: Path) -> Report:
    """Read a report.json. Raises BenchError for any other file."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(f"{path} cannot be read as a report: {error}") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA or "parts" not in document:
        raise BenchError(f"{path} is no report of schema {SCHEMA}.")
    return Report(document)


def save(report: Report, path: Path) -> None:
    """Write a report.json atomically: concurrent readers see the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(report.document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    fresh.replace(path)


OnProgress = Callable[[ReportProgress], None]
