"""Run the whole report on a small network; check every section and file, and render it from its JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from jet.bench import bandwidth
from jet.bench.report import machine, plan
from jet.bench.report.data import MEASURED, Report, load
from jet.bench.report.export import export
from jet.bench.report.plan import Plan
from jet.report.__main__ import main
from tests.networks import GOLDEN

pytestmark = pytest.mark.thorough

CONFIG = GOLDEN / "tiny-2b" / "config.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    output = tmp_path_factory.mktemp("report")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "QUICK", Plan(2, 4, (16, 32), (1, 2), 4, 2))
        patch.setattr(bandwidth, "LARGE_COPY_BYTES", 2**24)
        patch.setitem(machine._MATRIX_SIZE, "cpu", 256)
        arguments = ["--config", str(CONFIG), "--random-weights", "--device", "cpu", "--output", str(output)]
        assert main(arguments) == 0
    torch.set_num_threads(threads)
    yield output


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return load(folder / "report.json")


def test_everything_is_measured_but_what_is_not_installed(report: Report) -> None:
    left_out = {name for name, part in report.parts.items() if part["status"] != MEASURED}
    assert all("flash_attention_2" in name for name in left_out)
    assert {name.partition(".")[0] for name in report.parts} == {
        *("bandwidth", "loading", "standing", "kernels", "variant", "context", "batch", "projections")
    }
    assert all(report.reason(name) for name in left_out)


def test_ours_deviates_no_more_than_its_type_allows(report: Report) -> None:
    for dtype, most in (("float32", 1e-3), ("bfloat16", 1.0), ("float16", 0.1)):
        data = report.data(f"variant.{dtype}.ours")
        assert data is not None and data["deviation"]["logprob"] < most


def test_the_memory_of_full_attention_grows_with_the_text_and_with_the_batch(report: Report) -> None:
    def kept(name: str) -> int:
        data = report.data(name)
        assert data is not None
        return int(data["memory"]["full"])

    assert kept("context.32") > kept("context.16")
    assert kept("batch.2") == 2 * kept("batch.1")


def test_nothing_is_left_over_and_nothing_is_missing(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert {"report.json", "report.md", "report.html"} <= names
    assert not [name for name in names if "partial" in name or "new" in name]


def test_text_and_page_follow_from_the_json(folder: Path, report: Report, tmp_path: Path) -> None:
    export(report, tmp_path)
    for name in ("report.json", "report.md"):
        assert (tmp_path / name).read_text(encoding="utf-8") == (folder / name).read_text(encoding="utf-8")


def test_the_pictures_are_there_and_in_the_page(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    page = (folder / "report.html").read_text(encoding="utf-8")
    pictures = list(folder.glob("*.png"))
    assert len(pictures) >= 4
    assert page.count("data:image/png;base64,") == len(pictures)
    assert "http" not in page.replace("http-equiv", "")


def test_without_matplotlib_the_report_says_so(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jet.bench.report import plots

    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda name: None)
    export(report, tmp_path)
    assert not list(tmp_path.glob("*.png"))
    assert "matplotlib is not installed" in (tmp_path / "report.md").read_text(encoding="utf-8")
