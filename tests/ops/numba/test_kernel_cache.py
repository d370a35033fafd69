"""Test that kernels run, with a single warning, whatever is wrong with the cache of compiled kernels."""

from __future__ import annotations

import importlib.util
import logging
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from jet.ops import backends  # noqa: E402
from jet.ops.numba import kernels  # noqa: E402

SOURCE = """
from jet.ops.numba.kernels import kernel

@kernel
def double(x):
    for i in range(len(x)):
        x[i] *= 2

@kernel
def triple(x):
    for i in range(len(x)):
        x[i] *= 3
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], ModuleType]]:
    """Load a file of two kernels as a new process would, with its cache in `tmp_path / "cache"`."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "kernels.py"
    path.write_text(SOURCE)

    def load() -> ModuleType:
        spec = importlib.util.spec_from_file_location("kernels", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "kernels", module)
        spec.loader.exec_module(module)
        return module

    kept = sys.modules.get("jet.ops.numba.kernel_cache")
    if kept is not None:
        monkeypatch.setattr(kept, "_warned", set())
    yield load


def run(module: ModuleType) -> int:
    """Run both kernels; return how many had to be compiled."""
    for kernel, factor in ((module.double, 2), (module.triple, 3)):
        x = np.arange(5.0)
        try:
            kernel(x)
        except Exception as error:
            pytest.fail(f"the cache stops a kernel: {error!r}")
        assert x.tolist() == [factor * i for i in range(5)]
    return sum(sum(kernel.stats.cache_misses.values()) for kernel in (module.double, module.triple))


def files(tmp_path: Path, ending: str) -> list[Path]:
    found = sorted((tmp_path / "cache").rglob(f"*.{ending}"))
    assert len(found) == 2
    return found


def cut(size: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[:size])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-200] ^= 255
    path.write_bytes(data)


def in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "an empty index": ("nbi", cut(0)),
    "a cut index": ("nbi", cut(9)),
    "an index cut behind its version": ("nbi", cut(30)),
    "another program's index": ("nbi", lambda path: path.write_bytes(b"{}" * 40)),
    "empty machine code": ("nbc", cut(0)),
    "cut machine code": ("nbc", cut(1000)),
    "damaged machine code": ("nbc", flip),
    "no machine code": ("nbc", lambda path: path.unlink()),
    "a folder in its place": ("nbc", in_its_place),
}


EVERYDAY = ("a cut index", "cut machine code", "damaged machine code")
CASES = [n if n in EVERYDAY else pytest.param(n, marks=pytest.mark.thorough) for n in DAMAGES]


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_file_is_a_kernel_compiled_again_once(
    name: str, load: Callable[[], ModuleType], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(load()) == 2
    assert run(load()) == 0
    ending, damage = DAMAGES[name]
    for path in files(tmp_path, ending):
        damage(path)
    with caplog.at_level(logging.WARNING):
        assert run(load()) == 2
    said = [record.message for record in caplog.records if "compiled again" in record.message]
    assert len(said) <= 1
    if name != "a folder in its place":
        assert run(load()) == 0, "it is kept again"


def test_a_full_disk_keeps_nothing_and_stops_nothing(
    load: Callable[[], ModuleType], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    module = load()
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with caplog.at_level(logging.WARNING):
            run(module)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert len([record for record in caplog.records if "cannot be kept" in record.message]) == 1


def test_a_cache_that_becomes_unwritable_stops_nothing(
    load: Callable[[], ModuleType], tmp_path: Path
) -> None:
    module = load()
    for folder in (tmp_path / "cache").iterdir():
        folder.rmdir()
        folder.write_text("in the way")
    run(module)


def test_no_place_for_a_cache_stops_nothing(
    load: Callable[[], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    from numba.core.caching import CacheImpl

    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    run(load())


def test_a_numba_that_cannot_be_used_is_plain_pytorch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "jet.ops.numba.matvec", None)
    monkeypatch.delattr("jet.ops.numba.matvec", raising=False)
    try:
        assert backends.numba_backend().name == "torch"
    except ImportError as error:
        pytest.fail(f"numba stops the start: {error}")
    assert "plain PyTorch" in caplog.text


def test_the_kernels_in_use_are_kept_this_way() -> None:
    kinds = {type(getattr(kernels, name)._cache).__name__ for name in ("norm_linear", "jet_step", "attend")}
    assert kinds <= {"KernelCache", "NullCache"}
