"""Test kernels that are compiled ahead: their keys, their manifest, and how they are found again."""

# The tests' own process interprets kernels, so everything that traces or compiles runs in one of its own.

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from jet.engine import kernel_store
from jet.engine.kernel_store import KernelSet, Manifest, adopt
from jet.modeling import JetNemotronConfig
from jet.ops.gpu_target import GpuTarget
from tests.networks import GOLDEN

pytest.importorskip("triton")

TARGET = GpuTarget.named("sm_90")
# The keys that a launch on the GPU asks for, after others were asked for in another order.
KEYS = """
import json, sys, random
import torch
from jet.engine.start_kernels import kernels_of
from jet.modeling import JetNemotronConfig
from jet.ops.gpu_target import GpuTarget
from jet.ops.triton.cache_keys import settle_keys
from jet.ops.triton.compile_jobs import job_hash
settle_keys()
config = JetNemotronConfig.from_pretrained(sys.argv[1])
target = GpuTarget.named("sm_90")
jobs = kernels_of(config, torch.bfloat16, sys.argv[3] or None, [1, 3, 16], target)
random.Random(int(sys.argv[2])).shuffle(jobs)
print(json.dumps({job.name + job.specialization: job_hash(job, target) for job in jobs}))
"""


def run(program: str, *arguments: str, **environment: str) -> str:
    env = {**os.environ, "PYTHONPATH": os.getcwd(), **environment}
    env.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.thorough
def test_keys_are_the_same_in_every_process() -> None:
    folder = str(GOLDEN / "tiny-2b")
    one, other = (json.loads(run(KEYS, folder, seed, "int4")) for seed in ("1", "2"))
    assert len(one) > 40
    assert one == other


@pytest.fixture
def config() -> JetNemotronConfig:
    return JetNemotronConfig.from_pretrained(GOLDEN / "tiny-2b")


def kernel_set(config: JetNemotronConfig, target: GpuTarget = TARGET) -> KernelSet:
    return KernelSet(config, torch.bfloat16, None, target)


def compiled(folder: Path, *names: str) -> list[str]:
    """Write folders as Triton leaves them, each listing the path of its own file; return their names."""
    for name in names:
        (folder / name).mkdir(parents=True)
        file = folder / name / "kernel.cubin"
        file.write_bytes(b"code")
        listed = {"child_paths": {file.name: str(file)}}
        (folder / name / "__grp__kernel.json").write_text(json.dumps(listed))
    return list(names)


def test_a_manifest_speaks_of_what_is_there(tmp_path: Path, config: JetNemotronConfig) -> None:
    manifest = Manifest(tmp_path, kernel_set(config))
    assert manifest.read([1]) is None
    manifest.write([1, 8], compiled(tmp_path, "A", "B"))
    assert manifest.read([8]) == ["A", "B"]
    assert manifest.read([1, 2]) is None  # a size that was not compiled
    manifest.write([2], compiled(tmp_path, "C"))
    assert manifest.read([1, 2, 8]) == ["A", "B", "C"]
    (tmp_path / "A" / "kernel.cubin").unlink()
    (tmp_path / "A" / "__grp__kernel.json").unlink()
    (tmp_path / "A").rmdir()
    assert manifest.read([8]) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"facts": {}}'])
def test_a_damaged_manifest_is_none(text: str, tmp_path: Path, config: JetNemotronConfig) -> None:
    manifest = Manifest(tmp_path, kernel_set(config))
    manifest.write([1], compiled(tmp_path, "A"))
    manifest._path.write_text(text)
    assert manifest.read([1]) is None
    manifest.write([1], ["A"])
    assert manifest.read([1]) == ["A"]


def test_kernels_of_an_image_are_copied_with_their_paths(tmp_path: Path, config: JetNemotronConfig) -> None:
    image, cache = tmp_path / "image", tmp_path / "cache"
    ahead, here = (Manifest(folder, kernel_set(config)) for folder in (image, cache))
    ahead.write([1], compiled(image, "A", "B"), ahead=True)
    compiled(cache, "B")  # somebody has compiled it meanwhile
    assert not adopt(ahead, here, [1, 2])
    assert adopt(ahead, here, [1])
    assert here.read([1]) == ["A", "B"]
    listed = json.loads((cache / "A" / "__grp__kernel.json").read_text())["child_paths"]
    assert listed == {"kernel.cubin": str(cache / "A" / "kernel.cubin")}
    assert (cache / "A" / "kernel.cubin").read_bytes() == b"code"


def test_what_does_not_fit_is_said(
    tmp_path: Path, config: JetNemotronConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    Manifest(tmp_path, kernel_set(config, GpuTarget.named("sm_120"))).write([1], [], ahead=True)
    manifest = Manifest(tmp_path, kernel_set(config))
    assert manifest.mismatch() == "GPU sm_120, not sm_90, multiprocessors 188, not 132"
    facts = KernelSet.facts
    monkeypatch.setattr(KernelSet, "facts", lambda self: {**facts(self), "triton": "9.9"})
    assert "Triton" in str(Manifest(tmp_path, kernel_set(config)).mismatch())
    other = JetNemotronConfig.from_pretrained(GOLDEN / "tiny-4b")
    assert Manifest(tmp_path, kernel_set(other)).mismatch() is None


class _Jobs:
    """Jobs that compile kernels; `asked` records for which sizes they were requested."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, list[list[int]]()

    def jobs(self, sizes: list[int]) -> list[Any]:
        self.asked.append(list(sizes))
        return [("module", f"kernel{size}", "{}") for size in sizes]


def test_a_start_compiles_what_is_missing_and_then_nothing(
    tmp_path: Path, config: JetNemotronConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = _Jobs(tmp_path)

    class Compiler:
        def __init__(self, jobs: list[Any], *_: object, **options: object) -> None:
            self.folders = [name for _, name, _ in jobs]

        def wait(self, timeout_s: float | None = None) -> kernel_store.Compilation:
            for name in self.folders:
                (tmp_path / name).mkdir(exist_ok=True)
            return kernel_store.Compilation(compiled=len(self.folders), folders=self.folders)

        def close(self) -> None: ...

    class Thread:
        def __init__(self, target: Any, daemon: bool) -> None:
            self.start = target

    def compile_all(kernels: KernelSet, sizes: list[int]) -> None:
        kernel_store.compile_all(kernels, sizes)

    monkeypatch.setattr(KernelSet, "jobs", lambda self, sizes: counted.jobs(sizes))
    monkeypatch.setattr(kernel_store, "kernel_folder", lambda: tmp_path)
    monkeypatch.setattr(kernel_store, "KernelCompiler", Compiler)
    monkeypatch.setattr(kernel_store.threading, "Thread", Thread)
    monkeypatch.setattr(kernel_store, "compile_apart", compile_all)
    start = kernel_store.StartCompilation(kernel_set(config), [1, 4], [1, 2, 4])
    assert start.wait().compiled == 2
    assert counted.asked == [[1, 4], [1, 2, 4]]
    assert kernel_store.StartCompilation(kernel_set(config), [1, 4], [1, 2, 4]).wait().compiled == 0
    assert counted.asked == [[1, 4], [1, 2, 4]]


def test_without_a_gpu_nothing_is_compiled(config: JetNemotronConfig) -> None:
    assert kernel_store.begin(config, torch.bfloat16, None, 4, torch.device("cpu")) is None


def test_targets_have_names() -> None:
    assert GpuTarget.named("sm_120").processors == 188
    assert GpuTarget.named("sm_90", 78) == GpuTarget(90, 78, 232_448)
    for name in ("sm_12", "90", "sm_", "gfx90a", "sm_70"):
        with pytest.raises(ValueError, match="no GPU target"):
            GpuTarget.named(name)
