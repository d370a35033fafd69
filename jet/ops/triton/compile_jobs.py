# mypy: allow-untyped-defs, allow-untyped-calls
"""CompileJob: a Triton kernel that a computation launches, found without a GPU and without compiling it.

`trace_launches` runs a computation whose tensors are on the device "meta". Triton specializes every launch as
it would on the GPU (types, alignment, constants); instead of compiling, the specialization becomes a job,
which can be sent to another process as text. `run_job` compiles a job into Triton's cache, under the key that
the launch on the GPU will look up.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
import sysconfig
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import JITFunction, build, driver
from triton.runtime.cache import get_cache_manager

from jet.ops.gpu_target import GpuTarget, assume_target

_LAUNCHER, _UTILITIES = "__triton_launcher", "cuda_utils"
_device_numbers = count(-1, -1)  # no GPU's; each trace has its own, as Triton keeps a target for each


class CompileJob(NamedTuple):
    """One kernel with one specialization.

    Attributes:
        module: the module of the kernel's function.
        name: the function's name in the module.
        specialization: types, alignments and constants of a launch, in the JSON that Triton's hooks report.
    """

    module: str
    name: str
    specialization: str


@dataclass(frozen=True)
class _Pointer:
    """Stands for a tensor in a launch: has the dtype and the alignment, on which Triton specializes."""

    dtype: torch.dtype
    offset: int

    def data_ptr(self) -> int:
        return self.offset


class _TracingDriver:
    """Triton's driver, which pretends to this thread that there is one GPU of the target's kind."""

    def __init__(self, target: GpuTarget) -> None:
        self._before = driver._active
        self._thread = threading.get_ident()
        self._number = next(_device_numbers)
        self._target = GPUTarget("cuda", target.capability, 32)

    def get_current_device(self) -> int:
        return self._number if self._is_here() else driver.default.get_current_device()

    def get_current_stream(self, device: int) -> int:
        return 0 if self._is_here() else driver.default.get_current_stream(device)

    def get_current_target(self) -> GPUTarget:
        return self._target if self._is_here() else driver.default.get_current_target()

    def __getattr__(self, name: str) -> Any:
        return getattr(driver.default, name)

    def _is_here(self) -> bool:
        return threading.get_ident() == self._thread

    def __enter__(self) -> None:
        driver._active = self

    def __exit__(self, *exception: object) -> None:
        driver._active = self._before


def trace_launches(target: GpuTarget, compute: Callable[[], None]) -> list[CompileJob]:
    """Return one job for each specialized kernel that `compute` launches on tensors of the device "meta"."""
    found: dict[CompileJob, None] = {}
    here, before, run = threading.get_ident(), triton.knobs.runtime.jit_cache_hook, JITFunction.run

    def take(**launch: Any) -> bool:
        if threading.get_ident() != here:
            return bool(before(**launch)) if before is not None else False
        of = launch["fn"]
        found[CompileJob(of.module, of.name, launch["compile"]["specialization_data"])] = None
        return True  # Triton then compiles nothing and launches nothing

    def run_outlined(kernel: Any, *args: Any, **options: Any) -> Any:
        if threading.get_ident() != here:
            return run(kernel, *args, **options)
        return run(kernel, *map(_outlined, args), **{name: _outlined(one) for name, one in options.items()})

    with assume_target(target), _TracingDriver(target), torch.no_grad():
        triton.knobs.runtime.jit_cache_hook = take
        JITFunction.run = run_outlined
        try:
            compute()
        finally:
            triton.knobs.runtime.jit_cache_hook = before
            JITFunction.run = run
    return list(found)


def _outlined(argument: Any) -> Any:
    if not isinstance(argument, Tensor):
        return argument
    return _Pointer(argument.dtype, int(argument.storage_offset()) * argument.element_size())


def run_job(job: CompileJob, target: GpuTarget) -> tuple[bool, list[str]]:
    """Compile a job into Triton's cache, unless the cache has it.

    Also builds the kernel's launcher, for versions of Triton with one launcher per kernel.

    Returns whether the kernel was compiled, and the names of the cache's folders that a launch reads.
    """
    kernel = _function(job)
    source, options = _source(kernel, job)
    compiled = []

    def listen(*_: Any, cache_hit: bool, **rest: Any) -> None:
        compiled.append(not cache_hit)

    before = triton.knobs.compilation.listener
    triton.knobs.compilation.listener = listen
    try:
        made = triton.compile(source, target=GPUTarget("cuda", target.capability, 32), options=options)
    finally:
        triton.knobs.compilation.listener = before
    return any(compiled), [_folder(made.hash), *_build_launcher(source, made.metadata)]


def build_utilities() -> list[str]:
    """Build the library that Triton's driver loads before the first launch.

    Returns the names of the cache's folders with the library; none if this version of Triton has no such
    library.
    """
    from triton.backends.nvidia import driver as nvidia

    if not hasattr(nvidia, "CudaUtils"):
        return []
    source = Path(nvidia.__file__).with_name("driver.c")
    return [_build(source.read_text(), _UTILITIES, nvidia)] if source.is_file() else []


def job_hash(job: CompileJob, target: GpuTarget) -> str:
    """Return the key under which Triton's cache has the job's kernel."""
    from triton.compiler.compiler import get_cache_invalidating_env_vars, get_cache_key, make_backend

    source, options = _source(_function(job), job)
    backend = make_backend(GPUTarget("cuda", target.capability, 32))
    key = get_cache_key(source, backend, backend.parse_options(options), get_cache_invalidating_env_vars())
    return hashlib.sha256(key.encode()).hexdigest()


def _function(job: CompileJob) -> Any:
    found: Any = importlib.import_module(job.module)
    for part in job.name.split("."):
        found = getattr(found, part)
    return found


def _source(kernel: Any, job: CompileJob) -> tuple[ASTSource, dict[str, Any]]:
    told = json.loads(job.specialization)
    constants = {
        tuple(place): _constant(value)
        for place, value in zip(told["constant_keys"], told["constant_vals"], strict=True)
    }
    places = map(tuple, told["attrs_keys"])
    attributes = dict(zip(places, told["attrs_vals"], strict=True))
    signature = {name: _as_tuple(value) for name, value in told["signature"].items()}
    options = {name: tuple(v) if isinstance(v, list) else v for name, v in told["options"].items()}
    return ASTSource(kernel, signature, constants, attributes), options


def _constant(value: Any) -> Any:
    if isinstance(value, dict) and "constexpr" in value:
        return tl.constexpr(value["constexpr"])
    return tl.dtype(value) if tl.dtype.is_dtype(value) else value


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _build_launcher(source: ASTSource, metadata: Any) -> list[str]:
    """Build the C function that launches kernels of this signature, as Triton up to 3.6 does at a launch."""
    from triton.backends.nvidia import driver as nvidia

    if not hasattr(nvidia, "make_launcher"):
        return []
    constants = {
        (source.fn.arg_names.index(place),) if isinstance(place, str) else place: value
        for place, value in source.constants.items()
    }
    described = getattr(metadata, "tensordesc_meta", None)
    text = nvidia.make_launcher(constants, dict(source.signature), described)
    return [_build(text, _LAUNCHER, nvidia)]


def _build(source: str, name: str, nvidia: Any) -> str:
    """Compile a C source into the cache, if it is missing.

    Do not load it, since loading may need a driver.
    """
    key = hashlib.sha256((source + build.platform_key()).encode()).hexdigest()
    cache = get_cache_manager(key)
    file = f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    if cache.get_file(file) is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{name}.c")
            path.write_text(source)
            places = _driver_folders(nvidia, folder)
            libraries = list(nvidia.libraries)
            made = build._build(name, str(path), folder, places, list(nvidia.include_dirs), libraries, [])
            cache.put(Path(made).read_bytes(), file, binary=True)
    return _folder(key)


def _driver_folders(nvidia: Any, folder: str) -> list[str]:
    """Return the linker's folders with the driver's library; without a driver, `folder` with an empty one."""
    try:
        return list(nvidia.library_dirs())
    except Exception:  # whatever says that there is none
        compiler = os.environ.get("CC", "gcc")
        empty, library = Path(folder, "empty.c"), Path(folder, "libcuda.so.1")
        empty.write_text("")
        subprocess.run([compiler, "-shared", "-Wl,-soname,libcuda.so.1", "-o", library, empty], check=True)
        return [folder]


def _folder(key: str) -> str:
    """Return the name of a key's folder in the cache."""
    return Path(get_cache_manager(key).cache_dir).name
