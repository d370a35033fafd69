"""The project's files, for tests that check the tree itself."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDERS = (".ci", "assets", "deploy", "docs", "jet", "scripts", "tests")
FOREIGN = {"__pycache__", "node_modules"}  # made here, and not the project's own


def project_files() -> list[Path]:
    """Return the paths of all files of the project, relative to its root."""
    beside = (path for path in ROOT.iterdir() if path.is_file() and path.name != ".git")
    inside = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file())
    relative = (path.relative_to(ROOT) for path in (*beside, *inside))
    return sorted(path for path in relative if not FOREIGN & set(path.parts))


FILES = project_files()
PYTHON = [path for path in FILES if path.suffix == ".py"]
SOURCES = [path for path in PYTHON if path.parts[0] in {"app.py", "jet", "scripts"}]


def text_of(path: Path) -> str:
    """Read a file as text; "" if it is not text."""
    data = (ROOT / path).read_bytes()
    return "" if b"\0" in data else data.decode("utf-8")


PROJECT = tomllib.loads(text_of(Path("pyproject.toml")))["project"]


@cache
def requirements(name: str) -> list[Requirement]:
    """Read the requirements of a file, one a line."""
    lines = (line.partition("#")[0].strip() for line in text_of(Path(name)).splitlines())
    return [Requirement(line) for line in lines if line]


@cache
def extra(name: str) -> list[Requirement]:
    """Return the requirements of an extra of the package."""
    return [Requirement(line) for line in PROJECT["optional-dependencies"][name]]


IMPORTED_AS = {"python-docx": "docx"}


def import_names(wanted: Iterable[Requirement]) -> set[str]:
    """Return the import names of requirements, which mostly equal the package names."""
    names = (canonicalize_name(requirement.name) for requirement in wanted)
    return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}


def module_name(path: Path) -> str:
    """Return the module of a path: `jet/api.py` → `jet.api`."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path) for path in SOURCES}


@cache
def imports(path: Path) -> tuple[tuple[str, bool], ...]:
    """Return the modules that a file imports, each with True if importing the file needs it.

    Imports in a function, in a `try` or under `TYPE_CHECKING` are not needed. `from jet.engine import stream`
    counts as an import of `jet.engine.stream`, so that a module can be told from its package.
    """
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[str, bool]]:
    tree = ast.parse(text_of(path))
    deferred = {id(node) for scope in ast.walk(tree) if _defers(scope) for node in ast.walk(scope)}
    for node in ast.walk(tree):
        needed = id(node) not in deferred
        if isinstance(node, ast.Import):
            yield from ((alias.name, needed) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from ((name if name in MODULES else str(node.module), needed) for name in names)


def _defers(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return any(
            getattr(part, "attr", getattr(part, "id", "")) == "TYPE_CHECKING" for part in ast.walk(node.test)
        )
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Try))
