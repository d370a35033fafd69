"""Compare two reports: the ratio, second over first, of every figure that both have."""

from __future__ import annotations

from jet.bench.format import median, quantity
from jet.bench.options import BenchError
from jet.bench.report.data import Report


def compare(first: Report, second: Report) -> str:
    """Render a table of medians and their ratio. Raises BenchError if the reports share no figure."""
    others = dict(second.metrics())
    rows = [("", "A", "B", "B / A")]
    for path, figure in first.metrics():
        other = others.get(path)
        if other is not None and figure["median"]:
            ratio = f"{other['median'] / figure['median']:.3f}"
            rows.append((path, median(figure), quantity(other["median"], other["unit"]), ratio))
    if len(rows) == 1:
        raise BenchError("These reports have no figure in common.")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([f"A: {_name(first)}", f"B: {_name(second)}", "", *lines])


def _name(report: Report) -> str:
    options, machine = report.document["options"], report.document["machine"]
    return f"{options['model'] or options['config']}, {machine['device_name']}, {report.document['created']}"
