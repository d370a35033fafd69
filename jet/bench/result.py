"""A report: a table for people, and the same as one line of JSON.

The line is an object with these members, all of them always there:

    schema     1; another number where anything below means something else
    command    decode · prefill · throughput · sessions · soak · kernels · start · stream
    machine    device, device_name, system, processors, load (when the report was made), and the versions of
               python, jet, cuda, torch, transformers, triton, flash-linear-attention; null where there is
               none
    network    model, parameters, device, dtype, quantization (of the weights, or null), attention, kernels,
               context (the most it can hold), random_weights, full_attention (in every layer)
    settings   batch, context, tokens, runs, warm_up, greedy, baseline
    floor      bytes: weights, recurrent, conv, window_kv, full_kv, total (see jet/roofline.py);
               seconds: the time that moving them takes at best; null where nothing is compared with it
    bandwidth  copy, own_size (bytes a second, figures as below; own_size may be null); best: the fastest copy
               seen, which the floor's seconds are for; in_cache: whether a cache holds at least part of it;
               null with `floor`
    figures    what was measured, by name: {label, unit, median, q1, q3, min, max, values}
    shares     of the floor's speed that a figure's median reaches, by the name of the figure; at most 1
    ratios     one figure over another, round by round, by name: as in figures
    memory     bytes at the end of the engine's last request: recurrent, conv, window_kv, full_kv, process,
               device, device_reserved, device_peak; null where it is not known

Units are "tok/s", "1/s", "s", "B/s", and "" for a plain ratio.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from jet.api import EngineInfo, RequestStats
from jet.bench.bandwidth import Ceiling
from jet.bench.options import Options
from jet.bench.samples import Spread
from jet.bench.system import describe_machine

SCHEMA = 1
_INFO = ("model", "parameters", "device", "dtype", "quantization", "attention", "kernels", "context")
# What people read: seconds as milliseconds, bytes a second as gigabytes.
_SCALES = {"s": (1e3, "ms"), "B/s": (1e-9, "GB/s")}


@dataclass(frozen=True)
class Figure:
    """One quantity that was measured: its name for people, its unit, and its values."""

    label: str
    unit: str
    spread: Spread

    def as_json(self) -> dict[str, Any]:
        """As it stands in the line of JSON."""
        q1, q3 = self.spread.quartiles
        return {
            "label": self.label,
            "unit": self.unit,
            "median": self.spread.median,
            "q1": q1,
            "q3": q3,
            "min": self.spread.least,
            "max": self.spread.most,
            "values": list(self.spread.values),
        }

    def as_row(self) -> tuple[str, ...]:
        """As it stands in the table: label, unit, median, quartiles, extremes."""
        scale, unit = _SCALES.get(self.unit, (1.0, self.unit))
        spread = self.spread.map(lambda value: value * scale)
        q1, q3 = spread.quartiles
        return (
            self.label,
            unit,
            _number(spread.median),
            f"{_number(q1)} … {_number(q3)}",
            f"{_number(spread.least)} … {_number(spread.most)}",
        )


@dataclass(frozen=True)
class Report:
    """What one command found out."""

    options: Options
    info: EngineInfo
    figures: dict[str, Figure]
    ceiling: Ceiling | None = None
    shares: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, Figure] = field(default_factory=dict)
    stats: RequestStats | None = None

    def as_json(self) -> dict[str, Any]:
        """The object that the module describes."""
        options = self.options
        names = ("batch", "context", "tokens", "runs", "warm_up", "greedy", "baseline")
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
            "floor": _floor(self.ceiling),
            "bandwidth": _bandwidth(self.ceiling),
            "figures": {name: figure.as_json() for name, figure in self.figures.items()},
            "shares": self.shares,
            "ratios": {name: ratio.as_json() for name, ratio in self.ratios.items()},
            "memory": _memory(self.stats),
        }

    def text(self) -> str:
        """The table, and the JSON in its last line."""
        told = self.as_json()
        return "\n".join([*self._lines(told), "", json.dumps(told)])

    def _lines(self, told: dict[str, Any]) -> Iterator[str]:
        info, options, machine = self.info, self.options, told["machine"]
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
        figures = [figure.as_row() for figure in (*self.figures.values(), *self.ratios.values())]
        yield from _table([("", "", "median", "quartiles", "least … most"), *figures])
        if self.ceiling is not None:
            yield ""
            yield from _about_floor(self.ceiling)
        for name, share in self.shares.items():
            yield f"{share:.1%} of the floor's speed: {self.figures[name].label}"


def _floor(ceiling: Ceiling | None) -> dict[str, float] | None:
    if ceiling is None:
        return None
    return {**asdict(ceiling.floor), "total": ceiling.floor.total, "seconds": ceiling.seconds}


def _bandwidth(ceiling: Ceiling | None) -> dict[str, Any] | None:
    if ceiling is None:
        return None
    large, own_size = _copies(ceiling)
    return {
        "copy": large.as_json(),
        "own_size": None if own_size is None else own_size.as_json(),
        "best": ceiling.bandwidth,
        "in_cache": ceiling.in_cache,
    }


def _copies(ceiling: Ceiling) -> tuple[Figure, Figure | None]:
    own = ceiling.own_size
    return (
        Figure("copy on the device, large", "B/s", ceiling.large),
        None if own is None else Figure("copy on the device, of the floor's size", "B/s", own),
    )


def _about_floor(ceiling: Ceiling) -> Iterator[str]:
    yield from _table([figure.as_row() for figure in _copies(ceiling) if figure is not None])
    floor = ceiling.floor
    parts = ", ".join(f"{name} {_number(size / 1e6)}" for name, size in asdict(floor).items())
    yield f"floor: {_number(floor.total / 1e6)} MB ({parts})"
    yield f"which take {_number(ceiling.seconds * 1e3)} ms at the best copy's speed"
    if ceiling.in_cache:
        yield "in cache: a copy of that size is faster than memory, so the floor is partly a cache's"


def _memory(stats: RequestStats | None) -> dict[str, int | None]:
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


def _number(value: float) -> str:
    """Four digits, or all of those in front of the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
