"""Run every command once, from its command line to its last line, on a small network."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from jet.bench import bandwidth
from jet.bench.cli import main
from jet.bench.options import Options
from tests.networks import GOLDEN

MODEL = ("--model", str(GOLDEN / "tiny-2b"), "--device", "cpu")
RANDOM = ("--config", str(GOLDEN / "tiny-2b" / "config.json"), "--random-weights", "--device", "cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Any:
    # A copy that something else slows down would make what is measured look impossible.
    monkeypatch.setattr(bandwidth, "copy_bandwidth", lambda size, device: bandwidth.Samples((1e15,)))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(arguments) == 0
    line: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return line


def test_decode_against_transformers(capsys: pytest.CaptureFixture[str]) -> None:
    line = told(
        capsys, "decode", *MODEL, "--context", "20", "--tokens", "8", "--baseline", "transformers", "--greedy"
    )
    assert {"engine", "bare", "generate_1"} <= set(line["figures"])
    assert all(len(figure["values"]) == 5 for figure in line["figures"].values())
    assert {"overhead", "engine/generate_1"} <= set(line["ratios"])
    assert set(line["shares"]) == {"engine", "bare"}
    assert line["memory"]["recurrent"] > 0 and line["memory"]["process"] > 0


def test_prefill_with_random_weights(capsys: pytest.CaptureFixture[str]) -> None:
    line = told(capsys, "prefill", *RANDOM, "--context", "20", "--baseline", "transformers")
    rate, wait = line["figures"]["engine"], line["figures"]["engine.first_token"]
    assert rate["values"] == [20 / seconds for seconds in wait["values"]]
    assert line["settings"]["tokens"] == 1 and line["network"]["random_weights"]
    assert {"engine/generate", "engine/transformer"} <= set(line["ratios"])


def test_stream(capsys: pytest.CaptureFixture[str]) -> None:
    line = told(capsys, "stream", *RANDOM, "--context", "20", "--tokens", "300")
    figures = line["figures"]
    assert {"gap_p50", "gap_p99", "gap_max", "last_chunk", "tokens_per_second"} <= set(figures)
    assert figures["gap_p50"]["median"] <= figures["gap_p99"]["median"] <= figures["gap_max"]["median"]


def test_throughput_of_many_writers(capsys: pytest.CaptureFixture[str]) -> None:
    line = told(capsys, "throughput", *MODEL, "--batch", "6", "--context", "700", "--tokens", "80")
    together, each = line["figures"]["engine"], line["figures"]["writer"]
    assert together["values"] == pytest.approx([6 * rate for rate in each["values"]])
    one = told(capsys, "throughput", *MODEL, "--context", "700", "--tokens", "80")
    assert line["settings"]["batch"] == 6 and line["floor"]["weights"] == one["floor"]["weights"]
    assert line["floor"]["recurrent"] == 6 * one["floor"]["recurrent"]
    assert line["floor"]["full_kv"] == 6 * one["floor"]["full_kv"]


def test_throughput_of_full_attention(capsys: pytest.CaptureFixture[str]) -> None:
    line = told(
        capsys,
        "throughput",
        *RANDOM,
        "--full-attention",
        "--batch",
        "2",
        "--context",
        "50",
        "--tokens",
        "40",
    )
    assert line["floor"]["recurrent"] == line["floor"]["window_kv"] == 0 < line["floor"]["full_kv"]


@pytest.mark.thorough
def test_soak(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--batch", "5", "--context", "90", "--tokens", "12", "--seconds", "1")
    line = told(capsys, "soak", *MODEL, *arguments)
    figures = line["figures"]
    assert figures["differing"]["max"] == 0, "in float32 they are the same"
    assert figures["margin"]["max"] == 0 <= figures["error"]["max"] < 1e-3
    assert figures["stories"]["min"] > 0
    assert figures["gap_p50"]["median"] <= figures["gap_p99"]["median"] <= figures["gap_max"]["median"]


def test_sessions(capsys: pytest.CaptureFixture[str]) -> None:
    line = told(capsys, "sessions", *MODEL, "--context", "300", "--tokens", "8", "--greedy")
    figures = {name: figure["median"] for name, figure in line["figures"].items()}
    assert set(figures) == {"new", "continue", "retry", "undo", "branches", "afresh"}
    assert figures["retry"] < figures["new"] and figures["undo"] < figures["afresh"]
    assert line["ratios"]["afresh/retry"]["median"] > 1


def test_start(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run `start` with a stub for the fresh process; tests/bench/cases/test_start.py starts a real one."""
    from jet.bench.cases import start

    monkeypatch.setattr(start, "spawn", lambda arguments, environment: child(arguments))

    def child(arguments: tuple[str, ...]) -> dict[str, Any]:
        return told(capsys, *arguments, "--child")

    line = told(capsys, "start", *RANDOM)
    parts = {"total", "imports", "load", "engine", "warm_up", "first_token"}
    assert {name.rpartition(".")[2] for name in line["figures"]} == parts
    assert line["settings"]["context"] == 4 and line["network"]["parameters"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("decode", "--model", "./no-such-model", "--device", "cpu"), "Error: no-such-model does not exist"),
        (("throughput", *MODEL, "--full-attention"), "Error: --full-attention is for the network of a"),
        (
            ("throughput", *MODEL, "--batch", "4", "--context", "9", "--tokens", "2"),
            "Error: All requests were decoded together for",
        ),
        (("decode", *MODEL, "--context", "4000"), "Error: 4,000 tokens of context and 256 new ones"),
        (("decode", "--config", "no.json", "--random-weights"), "Error: no.json cannot be read"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(message)
    assert captured.err.count("\n") == 1


def test_a_share_above_everything_ends_with_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = bandwidth.Samples((1.0,))
    monkeypatch.setattr(bandwidth, "copy_bandwidth", lambda size, device: slow)
    monkeypatch.setattr(bandwidth, "read_rates", lambda *_: ())
    assert main(("prefill", *MODEL, "--context", "5")) == 2
    assert "The measurement is wrong" in capsys.readouterr().err


def test_the_default_length_fits_the_shipped_model() -> None:
    assert Options.context + Options.tokens <= 4096
