"""Recompute every figure of the shipped reports from the values in their JSON, with other code."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from jet.bench.report.blocks import to_html, to_markdown
from jet.bench.report.data import Report, load
from jet.bench.report.efficiency import int8_speedup, time_breakdown
from jet.bench.report.render import blocks, verdict
from tests.conftest import ROOT

REPORTS = sorted((ROOT / "docs" / "reports").glob("*/report.json"))


@pytest.fixture(params=REPORTS, ids=lambda path: path.parent.name)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def report(path: Path) -> Report:
    return load(path)


def test_there_is_a_report() -> None:
    assert REPORTS


def figures(node: Any) -> list[dict[str, Any]]:
    """Return all figures in the JSON, at any depth."""
    if isinstance(node, list):
        return [figure for item in node for figure in figures(item)]
    if not isinstance(node, dict):
        return []
    inside = [figure for item in node.values() for figure in figures(item)]
    return [node, *inside] if {"values", "median"} <= node.keys() else inside


def test_medians_and_spreads_are_those_of_the_values(report: Report) -> None:
    found = figures(report.document)
    assert len(found) > 30
    for figure in found:
        values = sorted(figure["values"])
        assert figure["median"] == pytest.approx(statistics.median(values))
        assert (figure["min"], figure["max"]) == (values[0], values[-1])
        places = [(len(values) - 1) * part for part in (0.25, 0.75)]
        for place, name in zip(places, ("q1", "q3"), strict=True):
            low = int(place)
            high = min(low + 1, len(values) - 1)
            expected = values[low] + (place - low) * (values[high] - values[low])
            assert figure[name] == pytest.approx(expected)


def test_the_floor_and_the_shares_follow_from_bytes_and_bandwidth(report: Report) -> None:
    efficiency = report.data("standing")
    assert efficiency is not None
    floor, bandwidth = efficiency["floor"], efficiency["bandwidth"]
    assert floor["total"] == sum(floor[n] for n in ("weights", "recurrent", "conv", "window_kv", "full_kv"))
    best = max(
        bandwidth["copy"]["values"]
        + (bandwidth["own_size"] or {"values": []})["values"]
        + (bandwidth.get("read") or {"values": []})["values"]
    )
    assert bandwidth["best"] == best
    assert floor["seconds"] == pytest.approx(floor["total"] / best)
    for name, share in efficiency["shares"].items():
        speed = statistics.median(efficiency["figures"][name]["values"])
        assert share == pytest.approx(speed * floor["total"] / best)
        assert 0 < share <= 1


def test_what_is_derived_adds_up(report: Report) -> None:
    efficiency = report.data("standing")
    assert efficiency is not None
    token = 1 / efficiency["figures"]["engine"]["median"]
    assert sum(time_breakdown(efficiency, report.data("kernels")).values()) == pytest.approx(token)
    assert f"{efficiency['shares']['engine']:.0%}" in verdict(report)
    gain = int8_speedup(efficiency)
    if gain is not None:
        others = efficiency["floor"]["total"] - efficiency["floor"]["weights"]
        assert gain == pytest.approx(efficiency["floor"]["total"] / (others + efficiency["elements"]))
        assert f"{gain:.1f}×" in verdict(report)
    loading = report.data("loading")
    if loading is not None:
        for how in ("once", "reload"):
            assert len(loading[how]["values"]) == loading["requests"]
            assert loading[how]["total"] == pytest.approx(sum(loading[how]["values"]))


def test_projections_are_bandwidth_over_bytes(report: Report) -> None:
    data = report.data("projections")
    assert data is not None
    for network in data["networks"].values():
        for row in network["rows"]:
            assert row["ceiling"] == pytest.approx(row["bandwidth"] / network["bytes"])
            if row["projected"] is not None:
                assert row["projected"] == pytest.approx(data["share"] * row["ceiling"])


def test_the_text_and_the_page_are_told_from_the_json_alone(report: Report, path: Path) -> None:
    text = path.with_name("report.md").read_text(encoding="utf-8")
    pictures = {file.name: "" for file in path.parent.glob("*.png")}
    shown = blocks(report, pictures)
    lines = [line for line in to_markdown(shown).splitlines() if line and "png" not in line]
    assert set(lines) <= set(text.splitlines())
    page = path.with_name("report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == len(pictures)
    assert "http" not in page
    tables = [line for line in to_html(shown, pictures).splitlines() if "<table>" in line]
    assert tables and all(line in page for line in tables)


def test_every_part_says_what_came_of_it(report: Report) -> None:
    for part in report.parts.values():
        measured = part["status"] == "measured"
        assert (part["data"] is not None) == measured
        assert (part["reason"] is None) == measured
