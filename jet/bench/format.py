"""Format figures with units, four significant digits, medians and quartiles."""

from __future__ import annotations

from typing import Any

# Unit in the JSON → what it is multiplied with for people, and what it is then called.
_SCALES = {"B/s": (1e-9, "GB/s"), "FLOP/s": (1e-12, "TFLOP/s")}


def number(value: float) -> str:
    """Format a number with four significant digits; from 1000 on, as an integer with thousands separators."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def quantity(value: float, unit: str) -> str:
    """Format a value with its unit. Times below a second are shown in milliseconds."""
    if unit == "s":
        return f"{number(value)} s" if value >= 1 else f"{number(value * 1e3)} ms"
    if unit == "FLOP/s" and value < 1e12:
        return f"{number(value / 1e9)} GFLOP/s"
    scale, unit = _SCALES.get(unit, (1.0, unit))
    return f"{number(value * scale)} {unit}".rstrip()


def median(figure: dict[str, Any]) -> str:
    """Format the median of a figure with its unit."""
    return quantity(figure["median"], figure["unit"])


def quartiles(figure: dict[str, Any]) -> str:
    """Format the quartiles of a figure with their unit."""
    return f"{quantity(figure['q1'], figure['unit'])} … {quantity(figure['q3'], figure['unit'])}"


def byte_size(count: float | None) -> str:
    """Format a number of bytes in decimal units, such as "4.2 GB"; "–" for None."""
    if count is None:
        return "–"
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= power:
            return f"{number(count / power)} {unit}"
    return f"{count:,.0f} B"
