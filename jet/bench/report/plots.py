"""Section 7: the plots, drawn by matplotlib without a display; none if it is not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jet.bench.report.data import Report
from jet.bench.report.efficiency import time_breakdown
from jet.bench.report.sweeps import NETWORK_LABELS

_OURS, _FULL, _PALE = "#0072b2", "#d55e00", "#999999"


def draw(report: Report, folder: Path) -> dict[str, str]:
    """Write a PNG for each plot that has data; return file name → caption."""
    if importlib.util.find_spec("matplotlib") is None:
        return {}
    from matplotlib.figure import Figure

    plots: dict[str, tuple[Callable[[Report, Any], str | None], tuple[float, float]]] = {
        "context.png": (_context, (11, 4)),
        "batch.png": (_batch, (11, 4)),
        "roofline.png": (_roofline, (7, 4.5)),
        "waterfall.png": (_waterfall, (9, 4.5)),
    }
    drawn = {}
    for file, (plot, inches) in plots.items():
        figure = Figure(figsize=inches, layout="constrained")
        caption = plot(report, figure)
        if caption is not None:
            figure.savefig(folder / file, dpi=110)
            drawn[file] = caption
    return drawn


def _context(report: Report, figure: Any) -> str | None:
    return _sweep(report, figure, "context.", "tokens of context")


def _batch(report: Report, figure: Any) -> str | None:
    return _sweep(report, figure, "batch.", "sequences")


def _sweep(report: Report, figure: Any, prefix: str, label: str) -> str | None:
    points = {int(n): part["data"] for n, part in report.under(prefix).items() if part["data"]}
    if not points:
        return None
    for axes, what in zip(figure.subplots(1, 3), ("decode", "prefill", "memory"), strict=True):
        for who, color in (("ours", _OURS), ("full", _FULL)):
            _line(axes, {n: d for n, d in points.items() if who not in d["failed"]}, who, what, color)
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(points), [_short(n) for n in points])
        axes.set(xlabel=label, title="memory kept, MB" if what == "memory" else f"{what}, tok/s")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    return f"Decode, prefill and memory over the {prefix[:-1]}; medians, bars between the quartiles."


def _short(n: int) -> str:
    """Format a power of two for an axis."""
    return f"{n // 1024}K" if n % 1024 == 0 else str(n)


def _line(axes: Any, points: dict[int, dict[str, Any]], who: str, what: str, color: str) -> None:
    style = {"fmt": "o-", "color": color, "capsize": 3, "label": NETWORK_LABELS[who]}
    if what == "memory":
        axes.errorbar(list(points), [d["memory"][who] / 1e6 for d in points.values()], **style)
        return
    found = [data["figures"][f"{who}.{what}"] for data in points.values()]
    errors = [[f["median"] - f["q1"] for f in found], [f["q3"] - f["median"] for f in found]]
    axes.errorbar(list(points), [f["median"] for f in found], yerr=errors, **style)


def _roofline(report: Report, figure: Any) -> str | None:
    bandwidth, efficiency = report.data("bandwidth"), report.data("standing")
    if bandwidth is None or efficiency is None:
        return None
    peak = max(f["median"] for name, f in bandwidth["figures"].items() if name != "copy")
    speed = efficiency["bandwidth"]["best"]
    axes = figure.subplots()
    # Two operations a weight; the floor's bytes for decoding, every weight once for a whole prompt.
    work = 2 * efficiency["elements"]
    least, most = 0.1, 40 * max(peak / speed, 10)
    widest = max(map(int, report.under("context.")), default=0) * work / efficiency["floor"]["total"]
    most = max(most, 3 * widest)
    axes.plot([least, peak / speed, most], [least * speed / 1e12, peak / 1e12, peak / 1e12], color="black")
    rate = efficiency["figures"]["engine"]["median"]
    axes.plot(
        work / efficiency["floor"]["total"], work * rate / 1e12, "o", color=_OURS, label="decode, engine"
    )
    for n, part in report.under("context.").items():
        if part["data"] and "ours" not in part["data"]["failed"]:
            rate = part["data"]["figures"]["ours.prefill"]["median"]
            intensity = work * int(n) / efficiency["floor"]["total"]
            axes.plot(intensity, work * rate / 1e12, "s", color=_FULL)
            axes.annotate(f"{int(n):,}", (intensity, work * rate / 1e12), xytext=(4, -10),
                          textcoords="offset points", fontsize=8)  # fmt: skip
    axes.plot([], [], "s", color=_FULL, label="reading a prompt of so many tokens")
    axes.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="TFLOP/s")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return "Roofline: the fastest copy and matrix product measured here, and where decoding and reading are."


def _waterfall(report: Report, figure: Any) -> str | None:
    efficiency, step = report.data("standing"), report.data("kernels")
    if efficiency is None or step is None:
        return None
    kinds = {name: f["median"] * 1e3 for name, f in step["figures"].items() if name != "step"}
    whole = step["figures"]["step"]["median"] * 1e3
    token = 1e3 / efficiency["figures"]["engine"]["median"]
    steps = {**kinds, "together in a step": whole - sum(kinds.values()), "around the step": token - whole}
    axes, reached = figure.subplots(), 0.0
    for place, (name, length) in enumerate(steps.items()):
        axes.barh(place, length, left=reached, color=_OURS if name in kinds else _PALE)
        axes.text(max(reached, reached + length), place, f" {length:.3g}", va="center", fontsize=8)
        reached += length
    axes.barh(len(steps), token, color="black")
    axes.text(token, len(steps), f" {token:.3g}", va="center", fontsize=8)
    floor = time_breakdown(efficiency, step)["floor"] * 1e3
    axes.axvline(floor, color=_FULL, linestyle="--", label=f"floor, {floor:.3g} ms")
    axes.set_yticks(range(len(steps) + 1), [*steps, "one token"])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("ms")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8)
    return (
        "One decoded token, operation by operation. Each kind is timed by itself, so that what they gain or "
        "lose by following one another is a step of its own; choosing the token, the engine and text follow."
    )
