"""Test the output: a table for people and a last line of JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from jet.api import RequestStats
from jet.bench.bandwidth import Bandwidth
from jet.bench.options import Options
from jet.bench.result import CaseResult, Metric
from jet.bench.samples import Samples
from jet.roofline import BytesMoved
from tests.engine.fakes import INFO

CEILING = Bandwidth(BytesMoved(90_000_000, 4, 3, 2, 1), Samples((1e9, 2e9, 3e9)), Samples((8e9, 9e9, 9e9)))
REPORT = CaseResult(
    options=Options("decode", config=Path("c.json")),
    info=replace(INFO, parameters=1234567),
    metrics={
        "engine": Metric("through the engine", "tok/s", Samples((10.0, 30.0, 20.0))),
        "wait": Metric("waiting", "s", Samples((0.25,))),
    },
    bandwidth=CEILING,
    utilization={"engine": 0.5},
    ratios={"overhead": Metric("the engine's share", "", Samples((0.01, 0.02, 0.03)))},
    stats=RequestStats(full_kv_bytes=77, process_memory_bytes=88),
)


def test_the_last_line_is_the_documented_object() -> None:
    told = json.loads(REPORT.text().splitlines()[-1])
    assert list(told) == [
        "schema", "command", "machine", "network", "settings", "floor", "bandwidth",
        "figures", "shares", "ratios", "memory",
    ]  # fmt: skip
    assert (told["schema"], told["command"], told["shares"]) == (1, "decode", {"engine": 0.5})
    assert told["figures"]["engine"] == {
        "label": "through the engine",
        "unit": "tok/s",
        "median": 20.0,
        "q1": 15.0,
        "q3": 25.0,
        "min": 10.0,
        "max": 30.0,
        "values": [10.0, 30.0, 20.0],
    }
    assert told["network"]["parameters"] == 1234567 and told["network"]["random_weights"] is True
    assert told["settings"] == {
        "batch": 1, "context": 512, "tokens": 256, "runs": 5, "warm_up": 1, "greedy": False, "baseline": None,
        "threads": None,
    }  # fmt: skip
    assert told["floor"]["total"] == 90_000_010 and told["floor"]["seconds"] == 90_000_010 / 9e9
    assert told["bandwidth"]["best"] == 9e9 and told["bandwidth"]["in_cache"] is True
    assert told["bandwidth"]["copy"]["median"] == 2e9
    assert told["memory"]["full_kv"] == 77 and told["memory"]["process"] == 88
    assert told["memory"]["device_peak"] is None
    assert told["machine"]["torch"] and told["machine"]["device"] == "cpu"


def test_the_documentation_names_every_member() -> None:
    from jet.bench import result

    told = REPORT.as_json()
    for member in told:
        assert f"\n    {member} " in result.__doc__, member
    for name in (*told["machine"], *told["network"], *told["settings"], *told["floor"], *told["bandwidth"]):
        assert name in result.__doc__, name


def test_what_was_not_compared_is_null() -> None:
    told = replace(REPORT, bandwidth=None, utilization={}, stats=None).as_json()
    assert told["floor"] is None and told["bandwidth"] is None
    assert set(told["memory"].values()) == {None}


def test_people_get_a_table() -> None:
    lines = REPORT.text().splitlines()
    assert lines[0] == "decode: fake, 1,234,567 parameters, float32, random weights"
    (engine,) = [line for line in lines if line.startswith("through the engine")]
    assert engine.split() == [
        "through", "the", "engine", "tok/s", "20", "15", "…", "25", "10", "…", "30",
    ]  # fmt: skip
    (wait,) = [line for line in lines if line.startswith("waiting")]
    assert wait.split()[1:3] == ["ms", "250"]
    assert any(line.startswith("in cache") for line in lines)
    assert "50.0% of the bandwidth used: through the engine" in lines
    assert max(map(len, [lines[0], *lines[2:-1]])) <= 120  # the second line is as long as the machine's name
