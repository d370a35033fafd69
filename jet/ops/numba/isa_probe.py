# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""Choose the best instruction set that the CPU has and that LLVM compiles correctly here.

LLVM ends the process if it cannot compile an intrinsic, and signatures of intrinsics differ between its
versions. So each instruction set is first tried in a child process, once for each CPU and set of versions;
the result is stored on disk.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding
import numba
import numpy as np

_SIMD = Path(__file__).with_name("simd.py")
_SECONDS = 120  # for a child, which takes two
_PLAIN = "plain"

log = logging.getLogger(__name__)


@cache
def best_isa() -> str:
    """Return the name of the chosen instruction set, one of `simd.ISAS`."""
    from jet.ops.numba.simd import supported_isas

    return next((isa for isa in supported_isas() if isa == _PLAIN or works(isa)), _PLAIN)


def works(isa: str, folder: Path | None = None) -> bool:
    """Return whether an instruction set computes correctly on this machine.

    A child process tries it, unless an earlier result is stored. `folder`: where results are stored; None for
    this package's `__pycache__`.
    """
    answer = (folder or Path(__file__).parent / "__pycache__") / f"isa-{_key(isa)}"
    try:
        return answer.read_text() == "yes"
    except OSError:
        pass
    found = _child_computes(isa)
    if not found:
        log.warning("Products with %s do not work here: slower ones are used.", isa)
    try:
        answer.parent.mkdir(exist_ok=True)
        answer.write_text("yes" if found else "no")
    except OSError:  # nothing can be kept there: it is tried again at the next start
        pass
    return found


def _key(isa: str) -> str:
    parts = (
        isa,
        numba.__version__,
        llvmlite.__version__,
        llvmlite.binding.get_host_cpu_name(),
        llvmlite.binding.get_host_cpu_features().flatten(),
        _SIMD.read_text(),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _child_computes(isa: str) -> bool:
    # As files, since importing the package takes longer than all that is tried.
    command = [sys.executable, str(Path(__file__)), isa]
    try:
        return subprocess.run(command, capture_output=True, timeout=_SECONDS).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def products(simd: Any, scheme: str, isa: str, x: Any, codes: Any, scales: Any) -> Any:
    """Multiply activations x `[batch, columns]` by a block of 16 quantized rows; return `[batch, 16]`.

    Args:
        simd: the module `jet.ops.numba.simd`.
        scheme: the weights' quantization scheme.
        isa: the instruction set.
        x: float32; quantized here.
        codes: `[16, bytes]`.
        scales: float16 `[groups, 16]`.
    """
    (count, width), span = x.shape, codes.shape[1]
    tile, quantize = simd.dot_tile(scheme, isa, count), simd.quantizer(simd.offset_of(scheme, isa))

    @numba.njit
    def run(x, whole, starts, factors, codes, scales, out):
        for group in range(count * width // 32):
            quantize(x + 128 * group, whole + 32 * group, starts + 4 * group, factors + 4 * group)
        tile(codes, span, scales, whole, starts, factors, width, out, 64)

    memory = [_aligned(size, kind) for size, kind in ((x.size, np.float32), (x.size, np.int8))]
    memory += [_aligned(x.size // 32, np.int32), _aligned(x.size // 32, np.float32)]
    memory += [_aligned(codes.size, codes.dtype), _aligned(scales.size, np.float16)]
    block = codes.reshape(16, span // 4, 4).transpose(1, 0, 2)
    for place, given in ((0, x), (4, block), (5, scales)):
        memory[place][:] = given.ravel()
    out = np.full((count, 16), np.nan, np.float32)
    run(*(part.ctypes.data for part in (*memory, out)))
    return out


def _aligned(size: int, kind: Any) -> Any:
    count = size * np.dtype(kind).itemsize
    memory = np.zeros(count + 64, np.uint8)
    begin = -memory.ctypes.data % 64
    return memory[begin : begin + count].view(kind)


def _check(isa: str) -> None:
    """Raise AssertionError unless the products of both schemes equal those that numpy computes."""
    spec = importlib.util.spec_from_file_location("simd", _SIMD)
    assert spec is not None and spec.loader is not None
    simd = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(simd)
    draw = np.random.default_rng(0)
    x = draw.standard_normal((2, 128), np.float32)
    groups = x.reshape(2, -1, 32)
    peaks = np.abs(groups).max(-1, keepdims=True)
    rounded = (np.rint(groups * (127 / peaks)) * (peaks / 127)).reshape(x.shape)
    codes = draw.integers(-127, 128, (16, 128)).astype(np.int8)
    found = products(simd, "int8", isa, x, codes, np.ones((0, 16), np.float16))
    assert np.allclose(found, rounded @ codes.T, rtol=1e-4, atol=1e-2)
    low, high = draw.integers(0, 16, (2, 16, 64)).astype(np.uint8)
    scales = draw.uniform(0.5, 1, (2, 16)).astype(np.float16)
    found = products(simd, "int4", isa, x, low | high << 4, scales)
    numbers = np.concatenate([(low - 8.0) * scales[0][:, None], (high - 8.0) * scales[1][:, None]], 1)
    assert np.allclose(found, rounded @ numbers.T, rtol=1e-4, atol=1e-2)


if __name__ == "__main__":
    _check(sys.argv[1])
