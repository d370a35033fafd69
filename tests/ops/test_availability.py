"""Test the fallbacks, down to PyTorch, if Triton's kernels fail at the start."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from jet.engine import cuda_graphs, decoder
from jet.engine.decoder import make_decoder

GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from jet.ops import availability

    monkeypatch.setattr(availability, "_recovery_attempts", [], raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", "/nowhere/kept")
    monkeypatch.setattr(decoder, "EagerDecoder", lambda *given: "plain")
    yield


def made(monkeypatch: pytest.MonkeyPatch, fails: Any) -> Any:
    """Build a decoder; making its CUDA graphs raises the exception that `fails(cache folder)` returns."""

    def make(*given: object) -> str:
        error = fails(os.environ["TRITON_CACHE_DIR"])
        if error is not None:
            raise error
        return "graphs"

    monkeypatch.setattr(cuda_graphs, "CudaGraphDecoder", make)
    return make_decoder(SimpleNamespace(device=GPU), None, frozenset(), frozenset(), 1)  # type: ignore[arg-type]


ERRORS = [
    OSError(28, "No space left on device"),
    PermissionError(13, "Permission denied: '/nowhere'"),
    ValueError("Expecting value: line 1 column 1 (char 0)"),
    RuntimeError("Triton Error [CUDA]: device kernel image is invalid"),
    EOFError("Ran out of input"),
    FileExistsError("a file where the folder should be"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_cache_that_fails_is_left_and_kernels_are_compiled_elsewhere(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = made(monkeypatch, lambda folder: error if folder == "/nowhere/kept" else None)
    assert found == "graphs"
    assert os.path.isdir(os.environ["TRITON_CACHE_DIR"])
    assert len(caplog.records) == 1 and "compiled again" in caplog.text and "Traceback" not in caplog.text


def test_kernels_that_fail_everywhere_are_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from jet.ops import availability, gated_delta_rule

    with caplog.at_level(logging.WARNING):
        assert made(monkeypatch, lambda folder: RuntimeError("no C compiler")) == "plain"
    assert not availability.has_triton()
    assert gated_delta_rule.prefill_implementation(GPU, torch.bfloat16) == "torch", (
        "prompts are read without them, too"
    )
    assert caplog.text.count("plain PyTorch") == 1


def test_a_full_disk_everywhere_is_plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    from jet.ops import availability

    def full(*given: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    assert made(monkeypatch, lambda folder: OSError(28, "No space left on device")) == "plain"
    assert not availability.has_triton()


def test_memory_that_is_full_is_not_taken_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        made(monkeypatch, lambda folder: torch.OutOfMemoryError("full"))
