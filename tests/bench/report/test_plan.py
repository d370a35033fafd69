"""Test the command line of the report, and the plan made from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from jet.bench.options import BenchError
from jet.bench.report.plan import FULL, QUICK, STORY_MODEL, CompareOptions, ReportOptions, read_options


def test_left_out_is_the_quick_report_of_the_story_model() -> None:
    options = read_options([])
    assert options == ReportOptions()
    assert options.name == STORY_MODEL and options.plan == QUICK


def test_everything_can_be_said() -> None:
    where = ("--device", "cuda:1", "--output", "out")
    options = read_options(["--full", "--config", "c.json", "--random-weights", "--dtype", "float16", *where])
    assert options == ReportOptions(None, Path("c.json"), "cuda:1", "float16", True, Path("out"))
    assert options.plan == FULL


def test_the_same_network_in_the_words_of_the_benchmarks() -> None:
    ctx = ReportOptions(model="folder", device="cpu", dtype="float16").bench_options(context=7, tokens=3)
    assert (ctx.command, ctx.model, ctx.config) == ("decode", "folder", None)
    assert (ctx.device, ctx.dtype, ctx.context, ctx.tokens) == ("cpu", "float16", 7, 3)
    drawn = ReportOptions(config=Path("c.json")).bench_options("kernels")
    assert (drawn.command, drawn.model, drawn.config) == ("kernels", None, Path("c.json"))


def test_where_it_is_written_makes_no_difference_to_a_report() -> None:
    here, there = (ReportOptions(output=Path(folder)).as_json() for folder in ("here", "there"))
    assert here == there
    assert here != ReportOptions(full=True).as_json()


def test_two_files_are_compared() -> None:
    assert read_options(["--compare", "a.json", "b.json"]) == CompareOptions(Path("a.json"), Path("b.json"))


@pytest.mark.parametrize("arguments", [["--config", "c.json"], ["--random-weights"]])
def test_a_config_has_no_weights(arguments: list[str]) -> None:
    with pytest.raises(BenchError, match="go together"):
        read_options(arguments)


@pytest.mark.parametrize("arguments", [["--quick", "--full"], ["--model", "a", "--config", "b"], ["--fast"]])
def test_what_cannot_be_understood_ends_the_program(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read_options(arguments)
    assert ended.value.code == 2


def test_the_full_sweeps_reach_what_was_asked_for() -> None:
    assert (FULL.contexts[0], FULL.contexts[-1]) == (512, 262144)
    assert FULL.batches[0] == 1
    assert set(QUICK.contexts) <= set(FULL.contexts) and set(QUICK.batches) <= set(FULL.batches)
