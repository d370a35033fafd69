"""Write the files of a report: JSON, plots, Markdown, and an HTML page that contains the plots."""

from __future__ import annotations

import base64
from pathlib import Path

from jet.bench.report import plots
from jet.bench.report.blocks import to_html, to_markdown
from jet.bench.report.data import Report, save
from jet.bench.report.render import blocks


def export(report: Report, folder: Path) -> None:
    """Write report.json, *.png, report.md and report.html into a folder."""
    save(report, folder / "report.json")
    pictures = plots.draw(report, folder)
    shown = blocks(report, pictures)
    (folder / "report.md").write_text(to_markdown(shown), encoding="utf-8")
    inlined = {file: _data_url(folder / file) for file in pictures}
    (folder / "report.html").write_text(to_html(shown, inlined), encoding="utf-8")


def _data_url(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
