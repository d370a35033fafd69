"""Compiled kernels on disk: check that all kernels that an engine needs exist, and compile missing ones.

Triton caches compiled kernels in a folder, `TRITON_CACHE_DIR` or `~/.triton/cache`. A manifest in this folder
lists the batch sizes for which it has all kernels of a network, for the given versions and GPU. If the
manifest has the needed sizes, nothing is compiled. Otherwise kernels are compiled in parallel processes while
weights load.

`JET_KERNELS` names a folder of kernels compiled ahead (`python -m jet.warm --folder`), as in a container
image. It may be read-only: matching kernels are copied from it into Triton's folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from jet.modeling import JetNemotronConfig
from jet.ops.availability import has_triton
from jet.ops.gpu_target import GpuTarget, gpu_target
from jet.ops.kernel_compiler import Compilation, KernelCompiler

log = logging.getLogger(__name__)
AHEAD_VARIABLE = "JET_KERNELS"
_PREFIX = "jet-kernels-"
_ROOMS = ("engine", "modeling", "ops")  # whose sources decide which kernels there are
_PACKAGE = Path(__file__).resolve().parents[1]
_WORDS = {"triton": "Triton", "python": "Python", "target": "GPU", "processors": "multiprocessors",
          "source": "version of Jet Stories"}  # fmt: skip


@dataclass(frozen=True)
class KernelSet:
    """The kernels that an engine needs for a network, a dtype and a GPU.

    Attributes:
        scheme: "int8" or "int4" for quantized weights; None for others.
    """

    config: JetNemotronConfig
    dtype: torch.dtype
    scheme: str | None
    target: GpuTarget

    def jobs(self, sizes: Sequence[int]) -> list[Any]:
        """Return the compile jobs for batches of these sizes and for prompts."""
        from jet.engine.start_kernels import kernels_of

        return list(kernels_of(self.config, self.dtype, self.scheme, sizes, self.target))

    def network(self) -> str:
        """Return a name of the network that does not depend on the machine or the process."""
        values = {name: value for name, value in self.config.to_dict().items() if not name.startswith("_")}
        for name in ("transformers_version", "name_or_path", "architectures", "dtype", "torch_dtype"):
            values.pop(name, None)
        text = json.dumps([values, str(self.dtype), self.scheme], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def facts(self) -> dict[str, Any]:
        """Return the versions and the GPU; compiled kernels are valid only where these are the same."""
        import triton

        return {
            "triton": triton.__version__,
            "python": ".".join(platform.python_version_tuple()[:2]),
            "target": self.target.name,
            "processors": self.target.processors,
            "source": _source_digest(),
        }


def kernel_folder() -> Path:
    """Return Triton's folder of compiled kernels."""
    import triton

    return Path(triton.knobs.cache.dir)


class Manifest:
    """A file that lists the batch sizes for which a folder has all kernels of a set."""

    def __init__(self, folder: Path, kernels: KernelSet) -> None:
        self.folder, self._kernels = folder, kernels
        facts = json.dumps(kernels.facts(), sort_keys=True)
        name = f"{kernels.network()}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"
        self._path = folder / f"{_PREFIX}{name}.json"

    def read(self, sizes: Sequence[int]) -> list[str] | None:
        """Return the names of the kernels' folders; None unless all kernels for these batch sizes exist."""
        told = _read(self._path)
        if told is None or not set(sizes) <= set(told["sizes"]):
            return None
        folders = list(map(str, told["folders"]))
        return folders if all((self.folder / name).is_dir() for name in folders) else None

    def write(self, sizes: Sequence[int], folders: Sequence[str], ahead: bool = False) -> None:
        """Add batch sizes and folders to the manifest. An OSError is logged, not raised.

        `ahead`: whether the kernels were compiled ahead of time; once set, it stays set.
        """
        before = _read(self._path) or {"sizes": [], "folders": []}
        told = {
            "facts": self._kernels.facts(),
            "ahead": ahead or bool(before.get("ahead")),
            "sizes": sorted({*before["sizes"], *sizes}),
            "folders": sorted({*before["folders"], *folders}),
        }
        draft = self._path.with_name(f"{self._path.name}.{uuid.uuid4().hex}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(told), encoding="utf-8")
            draft.replace(self._path)
        except OSError as error:
            log.info("The list of compiled kernels could not be saved: %s", error)

    def mismatch(self) -> str | None:
        """Return how kernels that were compiled ahead differ from those needed now, as a text to log.

        Returns None if the folder has none that were compiled ahead with other versions or for another GPU.
        """
        here = self._kernels.facts()
        for path in sorted(self.folder.glob(f"{_PREFIX}{self._kernels.network()}-*.json")):
            told = _read(path)
            if path != self._path and told is not None and told.get("ahead"):
                there = told["facts"]
                different = [name for name in here if here[name] != there.get(name)]
                return ", ".join(f"{_WORDS[name]} {_short(there.get(name))}, not {_short(here[name])}"
                                 for name in different)  # fmt: skip
        return None


def adopt(source: Manifest, target: Manifest, sizes: Sequence[int]) -> bool:
    """Copy kernels that were compiled ahead from the `source` manifest's folder to the `target` manifest's.

    Returns whether the target folder then has all kernels for these batch sizes.
    """
    folders = source.read(sizes)
    if folders is None or source.folder == target.folder:
        return False
    try:
        for name in folders:
            _copy(source.folder / name, target.folder / name)
    except OSError as error:
        log.warning("The kernels in %s cannot be copied to %s: %s", source.folder, target.folder, error)
        return False
    target.write(sizes, folders, ahead=True)
    return True


def _copy(source: Path, target: Path) -> None:
    """Copy one kernel's folder, and update the paths in Triton's list of its files."""
    if target.is_dir():
        return
    draft = target.with_name(f"tmp.{uuid.uuid4().hex}")
    shutil.copytree(source, draft)
    for path in draft.glob("__grp__*"):
        told = json.loads(path.read_text(encoding="utf-8"))
        told["child_paths"] = {
            name: str(target / Path(place).name) for name, place in told["child_paths"].items()
        }
        path.write_text(json.dumps(told), encoding="utf-8")
    try:
        draft.rename(target)
    except OSError:  # another process was quicker
        shutil.rmtree(draft, ignore_errors=True)
        if not target.is_dir():
            raise


class StartCompilation:
    """Compiles the kernels that an engine needs to start, and then the other ones at low priority."""

    def __init__(self, kernels: KernelSet, first: Sequence[int], later: Sequence[int]) -> None:
        self._kernels = kernels
        self._first, self._later = list(first), list(later)
        self._manifest = Manifest(kernel_folder(), kernels)
        self._compiler: KernelCompiler | None = None
        self._closed = False
        missing = self._manifest.read(self._first) is None and not self._adopt()
        if missing:
            self._say_mismatch()
            # Traced before weights load: a meta network changes PyTorch's defaults for all threads.
            self._compiler = KernelCompiler(kernels.jobs(self._first), kernels.target)
        if self._manifest.read(self._later) is None:
            threading.Thread(target=self._compile_later, daemon=True).start()

    def wait(self) -> Compilation:
        """Wait until all kernels that the engine needs to start are compiled or have failed."""
        if self._compiler is None:
            return Compilation()
        result = self._compiler.wait()
        for error in result.errors:
            log.warning("A kernel was not compiled ahead: %s", error)
        if not result.errors:
            self._manifest.write(self._first, result.folders)
        return result

    def close(self) -> None:
        """Stop compiling."""
        self._closed = True
        if self._compiler is not None:
            self._compiler.close()

    def _adopt(self) -> bool:
        folder = os.environ.get(AHEAD_VARIABLE)
        if not folder:
            return False
        ahead = Manifest(Path(folder), self._kernels)
        return adopt(ahead, self._manifest, self._later) or adopt(ahead, self._manifest, self._first)

    def _say_mismatch(self) -> None:
        folders = filter(None, (os.environ.get(AHEAD_VARIABLE), str(self._manifest.folder)))
        for folder in folders:
            different = Manifest(Path(folder), self._kernels).mismatch()
            if different:
                log.warning(
                    "The kernels compiled ahead in %s do not fit, others are compiled now: %s.",
                    folder,
                    different,
                )
                return

    def _compile_later(self) -> None:
        self.wait()
        if not self._closed:
            compile_apart(self._kernels, self._later)


_APART = """
import json, os, sys
os.nice(10)
import torch
from jet.engine.kernel_store import KernelSet, compile_all
from jet.modeling import JetNemotronConfig
from jet.ops.gpu_target import GpuTarget
given = json.load(sys.stdin)
config = JetNemotronConfig.from_dict(given["config"])
kernels = KernelSet(config, getattr(torch, given["dtype"]), given["scheme"], GpuTarget(*given["target"]))
compile_all(kernels, given["sizes"], given["workers"])
"""


def compile_apart(kernels: KernelSet, sizes: Sequence[int]) -> None:
    """Compile the kernels for batches of these sizes in a process of low priority, and wait for it.

    That process also finds out which kernels are needed, since this imports modules that an engine does not
    need.
    """
    target = kernels.target
    given = {
        "config": kernels.config.to_dict(),
        "dtype": str(kernels.dtype).removeprefix("torch."),
        "scheme": kernels.scheme,
        "target": [target.capability, target.processors, target.shared_memory],
        "sizes": list(sizes),
        "workers": max(1, (os.cpu_count() or 1) // 4),
    }
    done = subprocess.run(
        [sys.executable, "-c", _APART],
        input=json.dumps(given, default=str),
        cwd=_PACKAGE.parent,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "JET_LAZY_IMPORTS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        log.warning("Kernels of other batch sizes are not compiled ahead: %s", done.stderr[-500:])


def begin(
    config: JetNemotronConfig, dtype: torch.dtype, scheme: str | None, most: int, device: torch.device
) -> StartCompilation | None:
    """Start compiling kernels for an engine of up to `most` running requests.

    Returns None if the device does not use Triton, or after an error. An error only costs time, since missing
    kernels are compiled at their first launch.
    """
    if device.type != "cuda" or not has_triton():
        return None
    try:
        from jet.engine.start_kernels import graph_sizes

        target = gpu_target(device)
        assert target is not None
        sizes = graph_sizes(most)
        return StartCompilation(KernelSet(config, dtype, scheme, target), sorted({1, sizes[-1]}), sizes)
    except Exception as error:  # a version of Triton with other internals
        log.warning("Kernels are compiled one after the other: %s: %s", type(error).__name__, error)
        return None


def compile_all(
    kernels: KernelSet,
    sizes: Sequence[int],
    workers: int | None = None,
    nice: int = 0,
    ahead: bool = False,
    say: Callable[[str], None] | None = None,
) -> Compilation:
    """Compile all kernels for batches of these sizes into Triton's folder, and write the manifest.

    Args:
        kernels: the network and the GPU to compile for.
        sizes: batch sizes in rows.
        workers: the number of compiling processes; None for the default.
        nice: how much lower their priority is.
        ahead: whether the manifest is to say that the kernels were compiled ahead of time.
        say: is called with a message before the compilation; None for no message.

    Returns the folders of the compiled kernels, and the errors. The manifest is written only without errors.
    """
    jobs = kernels.jobs(sizes)
    if say is not None:
        say(f"{len(jobs)} kernels for {kernels.target.name}, {kernels.target.processors} multiprocessors")
    result = KernelCompiler(jobs, kernels.target, workers, nice).wait()
    if not result.errors:
        Manifest(kernel_folder(), kernels).write(sizes, result.folders, ahead)
    return result


def _read(path: Path) -> dict[str, Any] | None:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return told if isinstance(told, dict) and {"facts", "sizes", "folders"} <= told.keys() else None
    except (OSError, ValueError):
        return None


def _short(value: object) -> str:
    text = str(value)
    return text[:8] if len(text) == 64 else text


@cache
def _source_digest() -> str:
    """Return a digest of all source files on which the compiled kernels depend."""
    digest = hashlib.sha256()
    for room in _ROOMS:
        for path in sorted((_PACKAGE / room).rglob("*.py")):
            digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
