"""Test imports of flash-linear-attention on a fake package of the same layout."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch

from jet.ops import fla_backward, fla_import, gated_delta_rule

FILES = {
    "fla/__init__.py": "__version__ = 'all'\nfrom fla import ops\n",
    "fla/utils.py": "from fla import __version__\nfrom fla.modules.norm import scale\n",
    "fla/modules/__init__.py": "everything = True\n",
    "fla/modules/norm.py": "scale = 2\n",
    "fla/ops/__init__.py": "from fla.ops.gated_delta_rule import chunk_gated_delta_rule\neverything = True\n",
    "fla/ops/gated_delta_rule/__init__.py": "from .chunk import chunk_gated_delta_rule\n",
    "fla/ops/gated_delta_rule/chunk.py": (
        "from fla import utils\n"
        "def chunk_gated_delta_rule(x):\n"
        "    return x * utils.scale, utils.__version__\n"
    ),
}


def imported() -> set[str]:
    return {name for name in sys.modules if name.partition(".")[0] == "fla"}


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put the fake library first on the import path, and remove all traces afterwards."""
    others = {name: sys.modules.pop(name) for name in imported()}
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(metadata, "version", lambda name: f"0.6 of {name}")
    rule = fla_import.load_chunk_gated_delta_rule
    rule.cache_clear()
    yield tmp_path
    rule.cache_clear()
    for name in imported():
        del sys.modules[name]
    sys.modules.update(others)


def test_only_what_is_needed_is_imported() -> None:
    rule = fla_import.load_chunk_gated_delta_rule()
    assert rule(3) == (6, "0.6 of fla-core")
    assert fla_import.load_chunk_gated_delta_rule() is rule
    assert imported() == {
        "fla.modules.norm",
        "fla.ops.gated_delta_rule",
        "fla.ops.gated_delta_rule.chunk",
        "fla.utils",
    }


def test_who_imports_the_library_afterwards_gets_all_of_it() -> None:
    rule = fla_import.load_chunk_gated_delta_rule()
    fla = importlib.import_module("fla")
    assert fla.__version__ == "all" and fla.ops.everything
    assert importlib.import_module("fla.modules").everything
    assert fla.ops.chunk_gated_delta_rule is rule


def test_what_has_been_imported_is_left_as_it_is() -> None:
    fla = importlib.import_module("fla")
    assert fla_import.load_chunk_gated_delta_rule()(3) == (6, "all")
    assert sys.modules["fla"] is fla and sys.modules["fla.ops"].everything


def test_a_library_that_needs_its_packages_is_imported_whole(installed: Path) -> None:
    (installed / "fla/__init__.py").write_text("__version__, factor = 'all', 5\nfrom fla import ops\n")
    (installed / "fla/utils.py").write_text("from fla import __version__, factor as scale\n")
    assert fla_import.load_chunk_gated_delta_rule()(3) == (15, "all")


def test_an_unknown_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert fla_import.load_chunk_gated_delta_rule()(3) == (6, "all")


def test_without_the_library(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(installed)])
    if importlib.util.find_spec("fla") is not None:
        pytest.skip("the real one is installed")
    with pytest.raises(ImportError):
        fla_import.load_chunk_gated_delta_rule()
    assert not imported()


def test_with_gradients_the_rule_is_imported_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the order, because the gradient fix imports whole packages of the library."""
    called: list[str] = []

    def rule(**given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        return given["v"], given["v"][:, 0]

    def found() -> object:
        called.append("rule")
        return rule

    monkeypatch.setattr(fla_import, "load_chunk_gated_delta_rule", found)
    monkeypatch.setattr(fla_backward, "install", lambda: called.append("install"))
    q = torch.ones(1, 2, 1, 4, requires_grad=True)
    gate = torch.zeros(1, 2, 1)
    gated_delta_rule.fla_gated_delta_rule(q, q, q, gate, gate)
    assert called == ["rule", "install"]
    with torch.no_grad():
        gated_delta_rule.fla_gated_delta_rule(q, q, q, gate, gate)
    assert called == ["rule", "install", "rule"]
