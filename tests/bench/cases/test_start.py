"""Test the phases of a start and their durations, and the kernel cache that a process uses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from jet.bench.cases import start
from jet.bench.options import BenchError, Options
from tests.engine.fakes import INFO
from tests.networks import GOLDEN

TOLD = {
    "imported": 13.0,
    "asked": 18.0,
    "first_token": 18.5,
    "prompt_tokens": 4,
    "info": asdict(replace(INFO, load_s=3.0, warmup_s=1.5)),
}
RANDOM = ("start", "--config", str(GOLDEN / "tiny-2b" / "config.json"), "--random-weights", "--device", "cpu")


def test_the_parts_of_a_start() -> None:
    parts = start.times(10.0, TOLD)
    assert parts.pop("total") == 8.5 == sum(parts.values()), "the parts add up to the total"
    assert parts == {"imports": 3.0, "load": 3.0, "engine": 0.5, "warm_up": 1.5, "first_token": 0.5}


def test_without_a_compiler_there_is_no_kernel_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    environments: list[dict[str, str]] = []

    def spawn(arguments: tuple[str, ...], environment: dict[str, str]) -> dict[str, Any]:
        environments.append(environment)
        return TOLD

    monkeypatch.setattr(start, "spawn", spawn)
    monkeypatch.setattr(start, "compiles_kernels", lambda device: False)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    report = start.measure(Options("start", "m", device="cpu", runs=5, warm_up=1, arguments=("start",)))
    assert environments == [{}] * 6
    assert list(report.metrics) == ["total", "imports", "load", "engine", "warm_up", "first_token"]
    assert report.options.context == 4 and report.info.load_s == 3.0
    json.dumps(report.as_json())


def test_a_cold_cache_is_empty_and_a_warm_one_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[str, list[str]]] = []

    def spawn(arguments: tuple[str, ...], environment: dict[str, str]) -> dict[str, Any]:
        folder = Path(environment["TRITON_CACHE_DIR"])
        assert environment["NUMBA_CACHE_DIR"] == str(folder)
        folder.mkdir(exist_ok=True)
        found.append((str(folder), os.listdir(folder)))
        (folder / "kernel").touch()
        return TOLD

    monkeypatch.setattr(start, "spawn", spawn)
    monkeypatch.setattr(start, "compiles_kernels", lambda device: True)
    report = start.measure(Options("start", "m", device="cpu", runs=5, warm_up=1))
    cold, warm = found[:5], found[5:]
    assert len({folder for folder, _ in cold}) == 5 and not any(files for _, files in cold)
    assert warm == [(cold[-1][0], ["kernel"])] * 6  # the first of them does not count
    assert not any(Path(folder).exists() for folder, _ in found)
    assert {"cold.total", "warm.total", "warm.imports"} <= set(report.metrics)
    assert len(report.metrics["warm.total"].samples.values) == 5


def test_python_is_compiled_once_where_it_may_not_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that a measurement stores bytecode in a folder of its own if Python may write none."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert start.bytecode_environment(str(tmp_path)) == {}

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    environment = {**os.environ, **start.bytecode_environment(str(tmp_path))}
    module = "import colorsys; print(colorsys.__spec__.cached)"
    compiled = subprocess.check_output([sys.executable, "-c", module], env=environment, text=True).strip()
    assert Path(compiled).is_file() and Path(compiled).is_relative_to(tmp_path)


def test_every_start_finds_python_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[str] = []

    def spawn(arguments: tuple[str, ...], environment: dict[str, str]) -> dict[str, Any]:
        folders.append(environment["PYTHONPYCACHEPREFIX"])
        return TOLD

    monkeypatch.setattr(start, "spawn", spawn)
    monkeypatch.setattr(start, "compiles_kernels", lambda device: True)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    start.measure(Options("start", "m", device="cpu", runs=5, warm_up=1))
    assert len(folders) == 11 and len(set(folders)) == 1
    assert not Path(folders[0]).parent.exists()


@pytest.mark.parametrize(("each", "runs"), [(15.0, 5), (20.0, 5), (30.0, 4), (51.0, 2), (100.0, 1), (1e3, 1)])
def test_where_compiling_takes_minutes_there_are_fewer_cold_starts(each: float, runs: int) -> None:
    asked: list[int] = []

    def cold() -> dict[str, float]:
        asked.append(1)
        return {"cold.total": each, "cold.imports": each / 2}

    samples_by_name = start.cold_starts(cold, runs=5, max_total_s=100.0)
    assert len(asked) == runs
    assert samples_by_name["cold.total"].values == (each,) * runs
    assert samples_by_name["cold.imports"].values == (each / 2,) * runs


def test_a_checkpoint_is_read_through_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "READ_BYTES", 3)
    (tmp_path / "model.safetensors").write_bytes(bytes(10))
    (tmp_path / "folder").mkdir()
    read: list[int] = []
    whole = Path.open

    def opened(path: Path, *given: Any, **more: Any) -> Any:
        file = whole(path, *given, **more)

        class Counted:
            def __enter__(self) -> Counted:
                return self

            def __exit__(self, *exception: object) -> None:
                file.close()

            def read(self, size: int) -> bytes:
                piece: bytes = file.read(size)
                read.append(len(piece))
                return piece

        return Counted()

    monkeypatch.setattr(Path, "open", opened)
    start.warm_page_cache(tmp_path)
    assert read == [3, 3, 3, 1, 0]
    start.warm_page_cache(tmp_path / "jet-ai" / "Jet-Nemotron-2B")  # a name of the hub
    assert len(read) == 5


@pytest.mark.thorough
def test_a_fresh_process_tells_its_times() -> None:
    timings = start.spawn(RANDOM, {})
    assert timings["imported"] < timings["asked"] < timings["first_token"]
    assert timings["info"]["load_s"] > 0 and timings["info"]["warmup_s"] > 0
    assert timings["prompt_tokens"] == 4
    parts = start.times(timings["imported"] - 1.0, timings)
    assert parts["engine"] > 0, "the others are less than what they are taken from"
    assert parts.pop("total") == pytest.approx(sum(parts.values()))


@pytest.mark.thorough
def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(BenchError, match=r"^Unknown dtype 'int3'"):
        start.spawn((*RANDOM, "--dtype", "int3"), {})
