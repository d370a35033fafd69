# mypy: allow-untyped-calls
"""Make the cache keys of compiled kernels the same in every process.

The key of a kernel includes constants of the functions that it calls, but only if Triton has hashed those
functions before. So keys would depend on earlier launches, and a process would not find the kernels that
another one has compiled. `settle_keys` hashes every function after the functions that it calls.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import CodeType, ModuleType
from typing import Any

from triton.runtime import JITFunction

import jet.ops.triton as room

_settled: set[int] = set()


def settle_keys() -> None:
    """Hash all kernels of `jet.ops.triton`, each after the functions that it calls.

    Must be called before the first launch.
    """
    for found in pkgutil.iter_modules(room.__path__):
        module = importlib.import_module(f"{room.__name__}.{found.name}")
        for value in list(vars(module).values()):
            if isinstance(value, JITFunction):
                _settle(value)


def _settle(function: Any) -> None:
    if id(function) in _settled:
        return
    _settled.add(id(function))
    for called in _functions(function.fn.__code__, function.fn.__globals__):
        _settle(called)
    _ = function.cache_key  # which Triton then remembers


def _functions(code: CodeType, names: dict[str, Any]) -> list[Any]:
    """Return the kernel functions whose names a code object contains, directly or as members of modules."""
    modules = [value for name in code.co_names if isinstance(value := names.get(name), ModuleType)]
    found = [names.get(name) for name in code.co_names]
    found += [getattr(module, name, None) for module in modules for name in code.co_names]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found += _functions(constant, names)
    return [one for one in found if isinstance(one, JITFunction)]
