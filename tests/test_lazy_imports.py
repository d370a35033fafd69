"""Test deferred imports: stand-ins while libraries are imported, the real ones once they are used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jet.lazy_imports import Deferred, deferred
from tests.networks import GOLDEN

PACKAGE = """
from contextlib import nullcontext
LIMIT = 3
class Real:
    def __init__(self, size=0): self.size = size
    @property
    def double(self): return 2 * self.size
manager = nullcontext(5)
"""
USER = """
from slow_package.inner import LIMIT, Real, manager
made = Real(4)
size = Real(7).double
registered = [Real]
def annotated(x: Real | None) -> None: ...
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "slow_package" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "slow_package" / "__init__.py").write_text("")
    (inner / "__init__.py").write_text(PACKAGE)
    (tmp_path / "its_user.py").write_text(USER)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("slow_package", "slow_package.inner", "its_user"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("packages")
def test_stand_ins_become_real_when_they_are_used() -> None:
    with deferred(["slow_package", "not_installed_at_all"]):
        import its_user  # type: ignore[import-not-found]

        assert isinstance(its_user.Real, Deferred)
        assert not isinstance(3, its_user.Real)
    assert "slow_package" not in sys.modules
    assert not isinstance(its_user.made, its_user.Real)  # a class not imported has no instances
    assert its_user.made.size == 4
    assert "slow_package.inner" in sys.modules
    from slow_package.inner import Real  # type: ignore[import-not-found]

    assert not isinstance(Real, Deferred)
    assert isinstance(its_user.Real(2), Real)
    assert isinstance(Real(), its_user.Real)
    assert its_user.size._real() == 14
    with its_user.manager as value:
        assert value == 5

    class Child(its_user.Real):  # type: ignore[misc, name-defined]
        pass

    assert issubclass(Child, Real)


@pytest.mark.usefixtures("packages")
def test_a_base_class_is_imported_at_once() -> None:
    with deferred(["slow_package"]):
        from slow_package.inner import Real

        class Child(Real):  # type: ignore[misc]
            pass

    assert Child(3).double == 6


def test_what_is_imported_already_stays() -> None:
    import json

    with deferred(["json"]):
        from json import decoder

        assert json.decoder is decoder
    with pytest.raises(ModuleNotFoundError), deferred(["not_installed_at_all"]):
        import not_installed_at_all  # type: ignore[import-not-found] # noqa: F401


PROGRAM = """
import sys
import jet
from jet.modeling import load_model
model = load_model(sys.argv[1], "cpu")
loaded = {"torch._dynamo", "sympy", "torch.distributed.tensor", "accelerate", "sklearn"} & set(sys.modules)
assert not loaded, loaded
import torch
assert torch.isfinite(model(torch.tensor([[1, 2]])).logits).all()
import torch._dynamo
assert torch._dynamo.config is not None
"""


@pytest.mark.thorough
def test_a_program_of_ours_imports_no_compiler() -> None:
    env = {**os.environ, "JET_LAZY_IMPORTS": "1", "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(GOLDEN / "tiny-2b")], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_gradio_is_imported_without_writing_stubs(tmp_path: Path) -> None:
    program = """
import sys
from jet.lazy_imports import skip_gradio_stubs
skip_gradio_stubs()
before = list(sys.meta_path)
import gradio
from gradio import component_meta
class Named(gradio.Textbox): ...
assert gradio.Button().click and Named(lines=2).lines == 2
assert len(sys.meta_path) == len(before) - 1, "the finder goes once it has found its module"
assert component_meta.ComponentMeta and component_meta.create_or_modify_pyi(Named, "Named", []) is None
"""
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
