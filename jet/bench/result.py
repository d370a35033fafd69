"""CaseResult: the result of a benchmark, as a table and as one line of JSON.

The line is an object with these members, none of which is ever missing:

    schema     1; another number if the meaning of any field changes
    command    decode · prefill · throughput · sessions · soak · kernels · start · stream
    machine    device, device_name, system, processors, load (when the result was made), and the versions of
               python, jet, cuda, torch, transformers, triton, flash-linear-attention; null if not installed
    network    model, parameters, device, dtype, quantization (of the weights, or null), attention, kernels,
               context (the most tokens), random_weights, full_attention (in every layer)
    settings   batch, context, tokens, runs, warm_up, greedy, baseline, threads (or null for all)
    floor      bytes: weights, recurrent, conv, window_kv, full_kv, total (see jet/roofline.py);
               seconds: the least time to move them; null for benchmarks without bytes moved
    bandwidth  in the form of figures, bytes a second: copy (a large one), own_size (a copy of the floor's
               total, or null), read (reading, or null); best: the fastest of them, by which the floor's
               seconds are computed; in_cache: whether a cache holds a part of the bytes; null if `floor` is
               null
    figures    the measurements by name: {label, unit, median, q1, q3, min, max, values}
    shares     the bandwidth utilization of a figure's median, by the figure's name; at most 1
    ratios     one figure divided by another, round by round, by name; in the form of figures
    memory     bytes at the end of the engine's last request: recurrent, conv, window_kv, full_kv, process,
               device, device_reserved, device_peak; null if not known

Units are "tok/s", "1/s", "s", "B/s", and "" for a plain ratio.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from jet.api import EngineInfo, RequestStats
from jet.bench.bandwidth import Bandwidth
from jet.bench.format import number
from jet.bench.options import Options
from jet.bench.samples import Samples
from jet.bench.system import describe_machine

SCHEMA = 1
_INFO = ("model", "parameters", "device", "dtype", "quantization", "attention", "kernels", "context")
# What people read: seconds as milliseconds, bytes a second as gigabytes.
_SCALES = {"s": (1e3, "ms"), "B/s": (1e-9, "GB/s")}


@dataclass(frozen=True)
class Metric:
    """A measured quantity: its label to show, its unit, and its samples."""

    label: str
    unit: str
    samples: Samples

    def as_json(self) -> dict[str, Any]:
        """Return the figure as an object of the JSON, with its values and their statistics."""
        q1, q3 = self.samples.quartiles
        return {
            "label": self.label,
            "unit": self.unit,
            "median": self.samples.median,
            "q1": q1,
            "q3": q3,
            "min": self.samples.minimum,
            "max": self.samples.maximum,
            "values": list(self.samples.values),
        }

    def as_row(self) -> tuple[str, ...]:
        """Return the figure's row of the table: label, unit, median, quartiles, extremes."""
        scale, unit = _SCALES.get(self.unit, (1.0, self.unit))
        samples = self.samples.map(lambda value: value * scale)
        q1, q3 = samples.quartiles
        return (
            self.label,
            unit,
            number(samples.median),
            f"{number(q1)} … {number(q3)}",
            f"{number(samples.minimum)} … {number(samples.maximum)}",
        )


@dataclass(frozen=True)
class CaseResult:
    """The result of one benchmark.

    Attributes:
        options: the options of the benchmark.
        info: the description of the network.
        metrics: the measured figures by name.
        bandwidth: the measured bandwidth; None for benchmarks without bytes moved.
        utilization: figure's name → bandwidth utilization of its median.
        ratios: one figure divided by another, by name.
        stats: the stats of the engine's last request, for the memory it used; None if not known.
    """

    options: Options
    info: EngineInfo
    metrics: dict[str, Metric]
    bandwidth: Bandwidth | None = None
    utilization: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, Metric] = field(default_factory=dict)
    stats: RequestStats | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the result as the object for the line of JSON."""
        options = self.options
        names = ("batch", "context", "tokens", "runs", "warm_up", "greedy", "baseline", "threads")
        network = {name: getattr(self.info, name) for name in _INFO}
        return {
            "schema": SCHEMA,
            "command": options.command,
            "machine": describe_machine(torch.device(self.info.device)),
            "network": {
                **network,
                "random_weights": options.config is not None,
                "full_attention": options.full_attention,
            },
            "settings": {name: getattr(options, name) for name in names},
            "floor": _bytes_moved_json(self.bandwidth),
            "bandwidth": _bandwidth_json(self.bandwidth),
            "figures": {name: metric.as_json() for name, metric in self.metrics.items()},
            "shares": self.utilization,
            "ratios": {name: ratio.as_json() for name, ratio in self.ratios.items()},
            "memory": _memory_json(self.stats),
        }

    def text(self) -> str:
        """Return the table as text, with the JSON as last line."""
        document = self.as_json()
        return "\n".join([*self._lines(document), "", json.dumps(document)])

    def _lines(self, document: dict[str, Any]) -> Iterator[str]:
        info, options, machine = self.info, self.options, document["machine"]
        weights = f" with {info.quantization} weights" if info.quantization else ""
        weights += ", random weights" if options.config is not None else ""
        yield f"{options.command}: {info.model}, {info.parameters:,} parameters, {info.dtype}{weights}"
        libraries = (f"{name} {machine[name]}" for name in ("python", "torch", "transformers", "triton"))
        yield f"{machine['device_name']} ({info.device}), load {machine['load']}, {', '.join(libraries)}"
        yield (
            f"batch {options.batch}, {options.context:,} tokens of context, {options.tokens:,} written, "
            f"{'greedy' if options.greedy else 'sampled'}; "
            f"{options.runs} runs after {options.warm_up} to warm up"
        )
        yield ""
        metrics = [metric.as_row() for metric in (*self.metrics.values(), *self.ratios.values())]
        yield from _table([("", "", "median", "quartiles", "least … most"), *metrics])
        if self.bandwidth is not None:
            yield ""
            yield from _bandwidth_lines(self.bandwidth)
        for name, value in self.utilization.items():
            yield f"{value:.1%} of the bandwidth used: {self.metrics[name].label}"


def _bytes_moved_json(bandwidth: Bandwidth | None) -> dict[str, float] | None:
    if bandwidth is None:
        return None
    return {
        **asdict(bandwidth.bytes_moved),
        "total": bandwidth.bytes_moved.total,
        "seconds": bandwidth.seconds,
    }


def _bandwidth_json(bandwidth: Bandwidth | None) -> dict[str, Any] | None:
    if bandwidth is None:
        return None
    large_copy, same_size_copy = _copies(bandwidth)
    return {
        "copy": large_copy.as_json(),
        "own_size": None if same_size_copy is None else same_size_copy.as_json(),
        "read": None if bandwidth.read is None else _read(bandwidth.read).as_json(),
        "best": bandwidth.best,
        "in_cache": bandwidth.in_cache,
    }


def _copies(bandwidth: Bandwidth) -> tuple[Metric, Metric | None]:
    own = bandwidth.same_size_copy
    return (
        Metric("copy on the device, large", "B/s", bandwidth.large_copy),
        None if own is None else Metric("copy on the device, of a step's size", "B/s", own),
    )


def _read(samples: Samples) -> Metric:
    return Metric("read on the device", "B/s", samples)


def _bandwidth_lines(bandwidth: Bandwidth) -> Iterator[str]:
    read = None if bandwidth.read is None else _read(bandwidth.read)
    yield from _table([metric.as_row() for metric in (*_copies(bandwidth), read) if metric is not None])
    bytes_moved = bandwidth.bytes_moved
    parts = ", ".join(f"{name} {number(size / 1e6)}" for name, size in asdict(bytes_moved).items())
    yield f"bytes moved by a step: {number(bytes_moved.total / 1e6)} MB ({parts})"
    yield f"which take {number(bandwidth.seconds * 1e3)} ms at the best speed"
    if bandwidth.in_cache:
        yield "in cache: a copy of that size is faster than memory, so the bytes come partly from a cache"


def _memory_json(stats: RequestStats | None) -> dict[str, int | None]:
    kinds = ("recurrent", "conv", "window_kv", "full_kv")
    fields = {kind: f"{kind}_bytes" for kind in kinds} | {
        "process": "process_memory_bytes",
        "device": "device_memory_bytes",
        "device_reserved": "device_reserved_bytes",
        "device_peak": "device_peak_bytes",
    }
    return {name: getattr(stats, field, None) for name, field in fields.items()}


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        label, unit, *numbers = (cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True))
        numbers = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        yield "  ".join([label, unit, *numbers]).rstrip()
