"""Test that cache folders of libraries that are not writable are replaced before their import."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from jet import cache_dirs


@pytest.mark.parametrize(
    ("ensure", "variable", "name"),
    [
        (cache_dirs.ensure_torch_folder, "TORCHINDUCTOR_CACHE_DIR", "torchinductor_ann_b"),
        (cache_dirs.ensure_gradio_folder, "GRADIO_TEMP_DIR", "gradio"),
    ],
)
def test_a_folder_that_cannot_be_written_to_is_replaced(
    ensure: Callable[[], None],
    variable: str,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(variable, "")
    monkeypatch.delenv(variable)
    monkeypatch.setattr(cache_dirs.getpass, "getuser", lambda: "ann/b")
    monkeypatch.setattr(cache_dirs.tempfile, "tempdir", str(tmp_path))
    ensure()
    assert (tmp_path / name).is_dir() and variable not in os.environ and not caplog.records
    (tmp_path / name).rmdir()
    (tmp_path / name).write_text("what another user has left there")
    ensure()
    assert (Path(os.environ[variable]) / "x").write_text("x") == 1
    monkeypatch.setenv(variable, "/proc/none")
    ensure()
    assert (Path(os.environ[variable]) / "x").write_text("x") == 1
    assert len(caplog.messages) == 2 and variable in caplog.messages[1]
