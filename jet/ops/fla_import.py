"""Import flash-linear-attention's chunked gated delta rule without the rest of that library.

The library's packages import everything in them: kernels of dozens of other networks, layers, models, and
PyTorch's compiler. That takes some seconds, ten times as long as the needed modules.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from typing import Any

_MODULE = "fla.ops.gated_delta_rule"
_PACKAGES = ("fla", "fla.ops", "fla.modules")
_IMPORTING = threading.Lock()
_DISTRIBUTIONS = ("fla-core", "flash-linear-attention")


@cache
def load_chunk_gated_delta_rule() -> Callable[..., Any]:
    """Import the library's `chunk_gated_delta_rule`. Raises ImportError if the library is not installed."""
    # Read at the import: how its kernels are best cut is then measured once a machine, not in every process.
    os.environ.setdefault("TRITON_CACHE_AUTOTUNING", "1")
    with _IMPORTING:
        try:
            with _without_package_init(_PACKAGES, _version()):
                module = importlib.import_module(_MODULE)
        except (ImportError, AttributeError):  # a version of it that needs more of its packages
            module = importlib.import_module(_MODULE)
    function: Callable[..., Any] = module.chunk_gated_delta_rule
    return function


@contextmanager
def _without_package_init(packages: tuple[str, ...], version: str) -> Iterator[None]:
    """Replace packages that are not imported yet by empty ones while the context is open.

    Their submodules can then be imported without running the packages' `__init__`. Afterwards the packages
    can be imported as usual. The submodules stay in `sys.modules`, but are not attributes of their packages.
    """
    missing = [name for name in packages if name not in sys.modules]
    try:
        for name in missing:
            spec = importlib.util.find_spec(name)
            if spec is None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            sys.modules[name] = importlib.util.module_from_spec(spec)
            sys.modules[name].__version__ = version  # type: ignore[attr-defined]
        yield
    finally:
        for name in missing:
            sys.modules.pop(name, None)


def _version() -> str:
    """Return the library's version. Raises ModuleNotFoundError if the library is not installed."""
    for name in _DISTRIBUTIONS:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    raise ModuleNotFoundError("flash-linear-attention is not installed.")
