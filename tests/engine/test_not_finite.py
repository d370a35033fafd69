"""Test a network whose numbers are not finite: every program reports that in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import app
from jet import evaluate
from jet.api import Request, SamplingParams
from jet.bench.cli import main as bench
from jet.bench.report import sections
from jet.engine import loading
from jet.engine.loading import LocalConfig, create_engine
from jet.modeling import CheckpointError
from jet.ops import backends
from jet.report.__main__ import main as report
from tests.engine.small_checkpoint import save_small_checkpoint

DOWN = "model.layers.3.mlp.down_proj.weight"
_PARTS = sections.all_sections
Change = Callable[[dict[str, torch.Tensor]], object]
NAN, INFINITE = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace compiled operations by the torch reference, because logits of NaN need no compiled kernels."""
    monkeypatch.setattr("jet.engine.decoder.numba_backend", lambda threads: backends.reference_backend())


def checkpoint(folder: Path, change: Change) -> str:
    save_small_checkpoint(folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def put(name: str, place: tuple[int, ...], value: float) -> Change:
    return lambda tensors: tensors[name].__setitem__(place, value)


BAD = {
    "a weight": (put(DOWN, (0, 0), NAN), "float32", rf"{DOWN} \(NaN\)"),
    "a norm": (put("model.norm.weight", (5,), INFINITE), "float32", r"model\.norm\.weight \(infinite\)"),
    "a row of the head": (put("model.embed_tokens.weight", (8000, 3), NAN), "float32", "embed_tokens"),
    "a bias": (put("model.layers.3.self_attn.k_proj.bias", (1,), NAN), "float32", r"k_proj\.bias \(NaN\)"),
    "a decay rate": (put("model.layers.0.self_attn.A_log", (0,), NAN), "float32", "A_log"),
}


@pytest.mark.parametrize(
    "name", ["a weight", *(pytest.param(n, marks=pytest.mark.thorough) for n in [*BAD][1:])]
)
def test_weights_that_are_not_numbers_are_named_when_the_model_is_started(name: str, tmp_path: Path) -> None:
    change, dtype, message = BAD[name]
    model = checkpoint(tmp_path / "bad", change)
    with pytest.raises(CheckpointError, match=message):
        create_engine(LocalConfig(model, "cpu", dtype, context=64, max_running_requests=1))


def test_so_are_they_where_weights_are_quantized(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "bad", put(DOWN, (0, 0), NAN))
    with pytest.raises(CheckpointError, match=DOWN):
        create_engine(LocalConfig(model, "cpu", quantize="int8", context=64, max_running_requests=1))


def test_numbers_too_large_for_the_scales_of_int4_are_said_to_be(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "bad", put(DOWN, (0, 0), 1e6))
    with pytest.raises(CheckpointError, match=r"down_proj.weight \(infinite\).*without int4"):
        create_engine(
            LocalConfig(model, "cpu", "float32", quantize="int4", context=64, max_running_requests=1)
        )


def test_numbers_too_large_for_float16_are_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def large(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            if name.endswith(("gate_proj.weight", "up_proj.weight")):
                tensors[name] *= 10_000

    monkeypatch.setattr(loading, "_WARM_UP_TEXT", "Once upon a time")
    model = checkpoint(tmp_path / "bad", large)
    with pytest.raises(CheckpointError, match=r"too large for float16.*bfloat16 or float32"):
        create_engine(LocalConfig(model, "cpu", "float16", context=64, max_running_requests=1))


def test_the_page_refuses_in_one_line_with_code_2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = checkpoint(tmp_path / "bad", put(DOWN, (0, 0), NAN))
    capfd.readouterr()
    try:
        code = app.main(["--model", model, "--device", "cpu", "--context", "64", "--writers", "1"])
    except Exception as error:
        code = repr(error)
    assert code == 2
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("Error: ") and DOWN in said[0]


@pytest.mark.parametrize(
    "tool",
    [
        "decode",
        "evaluate",
        *(pytest.param(t, marks=pytest.mark.thorough) for t in ("kernels", "prefill", "report")),
    ],
)
def test_the_tools_refuse_with_code_2(
    tool: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = checkpoint(tmp_path / "bad", put(DOWN, (0, 0), NAN))
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a house.")
    monkeypatch.setattr("jet.bench.report.sections.all_sections", lambda options: _without_bandwidth(options))
    given = ["--model", model, "--device", "cpu"]
    try:
        if tool == "evaluate":
            code: object = evaluate.main([str(text), *given, "--dtype", "float32"])
        elif tool == "report":
            code = report([*given, "--quick", "--output", str(tmp_path / "report")])
        else:
            code = bench([tool, *given])
    except Exception as error:
        code = repr(error)
    assert code == 2
    said = [line for line in capfd.readouterr().err.splitlines() if "Loading weights" not in line]
    assert len(said) == 1 and "rror: " in said[0] and DOWN in said[0]


def _without_bandwidth(options: object) -> list[object]:
    return [part for part in _PARTS(options) if part.name not in ("bandwidth", "ceiling")]


def test_a_request_that_meets_one_later_ends_with_a_clear_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = str(save_small_checkpoint(tmp_path))
    engine = create_engine(LocalConfig(model, "cpu", context=128, max_running_requests=2))
    try:
        embedding = engine._runner._model.model.embed_tokens.weight
        token = int(engine._tokenizer.encode("Zebra", 9)[-1])
        row = embedding[token].clone()
        embedding[token] = NAN
        request = Request("A Zebra", SamplingParams(max_new_tokens=4, seed=1))
        last = list(engine.submit(request))[-1]
        assert last.stats.finish_reason == "error" and "not a number" in str(last.stats.error)
        embedding[token] = row
        assert list(engine.submit(request))[-1].stats.error is None, "and the engine goes on"
    finally:
        engine.close()
    assert "Traceback" not in capfd.readouterr().err
