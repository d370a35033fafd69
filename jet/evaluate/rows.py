"""Rows of figures, and the table of them that is printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jet.evaluate.spread import Estimate

_HEAD = ("", "measured", "spread", "control", "held out", "stories")


@dataclass(frozen=True)
class Row:
    """A figure of the table.

    Attributes:
        label: the description of the figure.
        value: the figure; None if it could not be measured, with the reason in `remark`.
        low, high: bounds of its interval; None if it has none.
        stories: the number of stories that it is computed from; None if it is not about stories.
        control: the figure of a control group, such as stories without the given fact; None without a group.
        held_out: the figure of held-out stories; None if they were not measured.
        unit: "%" for a fraction, which is shown as a percentage.
        digits: the number of decimals of figures with another unit.
        remark: a text that is shown below the figure.
    """

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    stories: int | None = None
    control: float | None = None
    held_out: float | None = None
    unit: str = "%"
    digits: int = 1
    remark: str = ""


def to_row(label: str, found: Estimate | None, control: Estimate | None = None) -> Row:
    """Return the row of an estimated share, compared with the mean of `control` if it is given."""
    if found is None:
        return Row(label, None, remark="no story to judge")
    without = None if control is None else control.mean
    return Row(label, found.mean, found.low, found.high, found.stories, without)


def format_table(rows: Sequence[Row]) -> str:
    """Return rows as a table for a terminal, remarks below their row."""
    cells = [_HEAD, *((row.label, *_figures(row)) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    lines = []
    for line, row in zip(cells, [None, *rows], strict=True):
        figures = "  ".join(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        lines.append(f"{line[0].ljust(widths[0])}  {figures}".rstrip())
        if row is not None and row.remark:
            lines.append(f"    {row.remark}")
    return "\n".join(lines)


def to_markdown(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table."""
    lines = [("what", *_HEAD[1:]), ("---",) * len(_HEAD), *((row.label, *_figures(row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _figures(row: Row) -> tuple[str, str, str, str, str]:
    def figure(value: float | None) -> str:
        if value is None:
            return "–"
        return f"{100 * value:.0f} %" if row.unit == "%" else f"{value:.{row.digits}f}"

    spread = "" if row.low is None or row.high is None else f"{100 * row.low:.0f}–{100 * row.high:.0f} %"
    control, held_out = ("" if value is None else figure(value) for value in (row.control, row.held_out))
    return figure(row.value), spread, control, held_out, "" if row.stories is None else f"{row.stories}"
