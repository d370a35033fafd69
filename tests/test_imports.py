"""Check that imports go one way, also those for types:

app → ui → {server, story} → engine → cache → modeling → ops.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.tree import MODULES, SOURCES, extra, import_names, imports, module_name, requirements

# Which rooms of `jet/` each room may enter, beside itself and the leaves. A room within a room has a row of
# its own where it may enter less than the room around it, or is entered by less.
MAY_IMPORT: dict[str, set[str]] = {
    "version": set(),
    "affixes": set(),
    "cache_dirs": set(),
    "credentials": set(),
    "hardware": set(),
    "huge_pages": set(),
    "proxies": set(),
    "roofline": set(),
    "token_ids": set(),
    "telemetry": set(),
    "timeouts": set(),
    "api": set(),
    "ops": {"ops.triton", "ops.numba"},
    "ops.triton": {"ops"},
    "ops.numba": {"ops"},
    "modeling": {"ops"},
    "cache": {"modeling", "ops"},
    "engine.text": set(),
    "engine": {"engine.text", "cache", "modeling", "ops", "ops.triton", "telemetry"},
    "engine.remote": {"engine", "engine.text", "telemetry"},
    "story": set(),
    "files": {"story"},
    "server": {"engine"},
    "ui": {"server", "engine", "files", "story", "telemetry"},
    "evaluate": {"engine", "modeling", "story", "ui"},
    "quantize": {"modeling"},
    "lazy_imports": set(),
    "warm": {"engine", "modeling", "ops"},
    "bench": {"bench.cases", "engine", "engine.text", "modeling", "ops"},
    "bench.cases": {"bench", "engine", "modeling"},
    "bench.report": {"bench", "bench.cases", "engine", "modeling"},
    "report": {"bench", "bench.report", "modeling"},
}
# What all rooms say to each other, and what every room may know.
LEAVES = {
    *("affixes", "api", "cache_dirs", "credentials", "hardware", "huge_pages", "lazy_imports"),
    *("proxies", "roofline", "timeouts", "token_ids", "version"),
}

WITHOUT_TORCH = (
    "jet/affixes.py",
    "jet/api.py",
    "jet/cache_dirs.py",
    "jet/credentials.py",
    "jet/engine/prefill_policy.py",
    "jet/engine/scheduler.py",
    "jet/files/",
    "jet/proxies.py",
    "jet/roofline.py",
    "jet/server/",
    "jet/story/",
)
WITH_GRADIO = ("jet/ui/", "jet/server/")
OPTIONAL = {"fla", "flash_attn", "gguf", "llvmlite", "matplotlib"}
OPTIONAL |= {"numba", "spaces", "spellchecker", "torchao", "triton", "xllamacpp"}
# Kernels import the library they are written in; their importers check first that it is available.
KERNELS = ("jet/ops/triton/", "jet/ops/numba/", "jet/engine/cuda_graphs.py")

JET = [path for path in SOURCES if path.parts[0] == "jet" and path != Path("jet/__init__.py")]


def room(module: str) -> str:
    """Return the innermost package in `MAY_IMPORT` that has a module; `jet` itself counts as `modeling`."""
    parts = module.split(".")[1:]
    inner = ".".join(parts[:2])
    return inner if inner in MAY_IMPORT else parts[0] if parts else "modeling"


def libraries(path: Path) -> set[str]:
    """Return the top-level packages that a file imports, anywhere in it."""
    return {module.partition(".")[0] for module, _ in imports(path)}


@pytest.mark.parametrize("path", JET, ids=str)
def test_imports_point_one_way(path: Path) -> None:
    here = room(module_name(path))
    allowed = MAY_IMPORT[here] | {here}
    ours = [module for module, _ in imports(path) if module.partition(".")[0] == "jet"]
    wrong = [module for module in ours if room(module) not in LEAVES | allowed]
    assert not wrong, f"jet.{here} must not import {wrong}"


def test_no_module_imports_itself_on_any_way_round() -> None:
    ways = {module_name(path): {name for name, _ in imports(path) if name in MODULES} for path in SOURCES}
    for start in ways:
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            further = ways[ahead.pop()] - seen
            seen |= further
            ahead.extend(further)
        assert start not in seen, f"{start} is imported by what it imports"


def test_module_names_are_unique_within_a_room() -> None:
    names: dict[tuple[str, str], list[Path]] = {}
    for path in JET:
        if path.stem not in {"__init__", "__main__"}:
            names.setdefault((path.parts[1], path.stem), []).append(path)
    assert not {name: paths for name, paths in names.items() if len(paths) > 1}


@pytest.mark.parametrize("path", JET, ids=str)
def test_torch_and_gradio_stay_in_their_rooms(path: Path) -> None:
    if path.as_posix().startswith(WITHOUT_TORCH):
        assert not libraries(path) & {"torch", "transformers"}
    if not path.as_posix().startswith(WITH_GRADIO):
        assert "gradio" not in libraries(path)


@pytest.mark.parametrize("path", [path for path in JET if path.parts[1] == "story"], ids=str)
def test_the_story_stands_on_the_standard_library(path: Path) -> None:
    assert libraries(path) <= {"jet", *sys.stdlib_module_names}
    ours = {module for module, _ in imports(path) if module.partition(".")[0] == "jet"}
    assert {module for module in ours if room(module) != "story"} <= {"jet.affixes", "jet.api"}


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_accelerators_are_never_needed_to_import(path: Path) -> None:
    if path.as_posix().startswith(KERNELS):
        return
    needed = {module for module, at_import in imports(path) if at_import}
    assert not {module.partition(".")[0] for module in needed} & OPTIONAL
    files = {module.replace(".", "/") + suffix for module in needed for suffix in (".py", "/")}
    assert not [file for file in files if file.startswith(KERNELS)]


WITH_BROWSER = ("scripts/take_pictures.py", "scripts/measure_page.py", "scripts/page/")


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_every_library_is_a_requirement_or_optional(path: Path) -> None:
    of_scripts = import_names(extra("train")) | {"scripts"} if path.parts[0] == "scripts" else set()
    of_browsers = {"playwright"} if path.as_posix().startswith(WITH_BROWSER) else set()
    allowed = {
        "jet",
        *sys.stdlib_module_names,
        *OPTIONAL,
        *import_names(requirements("requirements.txt")),
        *of_scripts,
        *of_browsers,
    }
    assert libraries(path) <= allowed, "name it in requirements.txt"
