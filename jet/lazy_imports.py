"""Lazy imports: libraries that serving rarely uses are imported on first use.

transformers imports libraries for features that serving does not use: the compiler with its symbolic
mathematics, distributed tensors, scikit-learn. They take two to three seconds of a start. Within `deferred`,
importing such a library gives stand-ins. Using a stand-in later imports the real library, and from then on
import statements give the real one everywhere.

Only this project's own programs defer imports, by setting `JET_LAZY_IMPORTS`; programs that import `jet`
beside other networks get transformers unchanged.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_packages_distributions = importlib.metadata.packages_distributions
VARIABLE = "JET_LAZY_IMPORTS"
# With everything below them.
UNNEEDED = (
    "torch._dynamo",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "accelerate",
    "scipy",
    "sklearn",
)


class Deferred:
    """Stand-in for a value; `find` imports the value's module and returns the value."""

    def __init__(self, module: str, find: Callable[[], Any]) -> None:
        self.__dict__.update(_module=module, _find=find)

    def _real(self) -> Any:
        if "_found" not in self.__dict__:
            _forget_stand_ins(self._module)
            self.__dict__["_found"] = self._find()
        return self._found

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the real value; while imports are deferred, return a stand-in for the result."""
        if _is_deferring(self._module):  # called at the top level of a module that is being imported
            return Deferred(self._module, lambda: self._real()(*arguments, **options))
        return self._real()(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if _is_deferring(self._module):
            return Deferred(self._module, lambda: getattr(self._real(), name))
        return getattr(self._real(), name)

    def __instancecheck__(self, instance: object) -> bool:
        # A class that has not been imported has no instances.
        return self._is_loaded() and isinstance(instance, self._real())

    def __subclasscheck__(self, subclass: type) -> bool:
        return self._is_loaded() and issubclass(subclass, self._real())

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[type, ...]:
        return (self._real(),)

    def __enter__(self) -> Any:
        return self._real().__enter__()

    def __exit__(self, *exception: object) -> Any:
        return self._real().__exit__(*exception)

    def __or__(self, other: Any) -> Any:
        return Any  # in an annotation that is evaluated

    __ror__ = __or__

    def __getitem__(self, item: Any) -> Any:
        return Any

    def _is_loaded(self) -> bool:
        loaded = sys.modules.get(self._module)
        return loaded is not None and not isinstance(loaded, _StandIn)


class _StandIn(ModuleType):
    """Stand-in for a module: all names imported from it are `Deferred`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        module = self.__name__
        return Deferred(module, lambda: getattr(importlib.import_module(module), name))


class _Finder(MetaPathFinder, Loader):
    """Finds stand-ins for some packages and their submodules."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if self.root_of(name) else None

    def root_of(self, name: str) -> str | None:
        """Return the package of `names` that is the module or contains it; None if there is none."""
        return next((one for one in self.names if name == one or name.startswith(f"{one}.")), None)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Execute no code: a stand-in has no contents."""


class _Distributions(dict[str, list[str]]):
    """Maps packages to their distributions; looks each package up on first access.

    It replaces `importlib.metadata.packages_distributions`, which is slow: it reads the file lists of all
    installed distributions.
    """

    def __missing__(self, package: str) -> list[str]:
        try:
            importlib.metadata.distribution(package)
            self[package] = [package]
        except importlib.metadata.PackageNotFoundError:
            self.update(_packages_distributions())
        return dict.__getitem__(self, package) if package in self else []

    def get(self, package: str, default: Any = None) -> Any:
        return self[package] or default

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


def deferred_here(names: Sequence[str] = UNNEEDED) -> AbstractContextManager[None]:
    """Return `deferred` if `JET_LAZY_IMPORTS` is set, otherwise a context that does nothing."""
    return deferred(names) if os.environ.get(VARIABLE) == "1" else nullcontext()


@contextmanager
def deferred(names: Sequence[str] = UNNEEDED) -> Iterator[None]:
    """Defer imports of these packages while the context is open: import statements give stand-ins.

    Packages that are not installed or already imported are not deferred.
    """
    finder = _Finder([name for name in names if name not in sys.modules and _is_installed(name)])
    sys.meta_path.insert(0, finder)
    packages = importlib.metadata.packages_distributions
    importlib.metadata.packages_distributions = _Distributions
    try:
        yield
    finally:
        importlib.metadata.packages_distributions = packages
        for name in list(finder.names):
            _forget_stand_ins(name)
        sys.meta_path.remove(finder)


def skip_gradio_stubs() -> None:
    """Keep Gradio from writing type stubs of its components when it is imported.

    Stubs are for editors. Gradio renders and compares them at every import, which takes a third of its time.
    """
    if "gradio" not in sys.modules:
        sys.meta_path.insert(0, _StubsFinder())


class _StubsFinder(MetaPathFinder, Loader):
    """Finds Gradio's module that writes stubs, once, and loads it with a function that writes none."""

    _MODULE = "gradio.component_meta"

    def find_spec(self, name: str, path: Any = None, target: object = None) -> ModuleSpec | None:
        if name != self._MODULE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module, then replace its function."""
        self._loader.exec_module(module)
        if hasattr(module, "create_or_modify_pyi"):
            module.create_or_modify_pyi = lambda *_: None  # type: ignore[attr-defined]


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _is_deferring(module: str) -> bool:
    return any(isinstance(finder, _Finder) and finder.root_of(module) for finder in sys.meta_path)


def _forget_stand_ins(module: str) -> None:
    """Remove the stand-ins of `module`'s package, so that import statements find the real one."""
    for finder in sys.meta_path:
        if not isinstance(finder, _Finder) or (root := finder.root_of(module)) is None:
            continue
        finder.names.remove(root)
        below = [name for name in sys.modules if name == root or name.startswith(f"{root}.")]
        for name in below:
            if not isinstance(sys.modules[name], _StandIn):
                continue
            stand_in = sys.modules.pop(name)
            parent, _, own = name.rpartition(".")
            above = sys.modules.get(parent)
            if above is not None and vars(above).get(own) is stand_in:
                delattr(above, own)
