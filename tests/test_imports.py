"""Imports point one way: app → ui → {engine, story, telemetry}, engine → {modeling, ops}, modeling → ops."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.tree import SOURCES, extra, import_names, imports, module_name, requirements

# Which rooms of `jet/` each room may enter, beside itself and the leaves.
MAY_IMPORT: dict[str, set[str]] = {
    "version": set(),
    "affixes": set(),
    "caches": set(),
    "hardware": set(),
    "footprint": set(),
    "ops": set(),
    "modeling": {"ops"},
    "story": set(),
    "telemetry": set(),
    "engine": {"modeling", "ops", "telemetry"},
    "ui": {"engine", "story", "telemetry"},
    "evaluate": {"modeling"},
    "bench": {"engine", "modeling"},
    "report": {"bench", "engine", "modeling"},
}
LEAVES = ("jet.affixes", "jet.caches", "jet.engine.types", "jet.footprint", "jet.hardware", "jet.version")

WITHOUT_TORCH = (
    "jet/affixes.py",
    "jet/caches.py",
    "jet/engine/scheduler.py",
    "jet/engine/types.py",
    "jet/footprint.py",
    "jet/story/",
)
WITH_GRADIO = "jet/ui/"
OPTIONAL = {"fla", "flash_attn", "matplotlib", "numba", "spaces", "torchao", "triton"}
# Kernels need what they are written in; nobody imports these before having looked whether it is there.
KERNELS = ("jet/ops/kernels/", "jet/ops/cpu/", "jet/engine/graphs.py")

JET = [path for path in SOURCES if path.parts[0] == "jet" and path != Path("jet/__init__.py")]


def room(module: str) -> str:
    """The part of `jet` a module stands in; `jet` itself is the door to `modeling`."""
    return module.split(".")[1] if "." in module else "modeling"


def libraries(path: Path) -> set[str]:
    """Top-level packages a file imports, anywhere in it."""
    return {module.partition(".")[0] for module, _ in imports(path)}


@pytest.mark.parametrize("path", JET, ids=str)
def test_imports_point_one_way(path: Path) -> None:
    here = room(module_name(path))
    allowed = MAY_IMPORT[here] | {here}
    ours = [module for module, _ in imports(path) if module.partition(".")[0] == "jet"]
    wrong = [module for module in ours if module not in LEAVES and room(module) not in allowed]
    assert not wrong, f"jet.{here} must not import {wrong}"


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
    assert {module for module in ours if room(module) != "story"} <= {"jet.affixes", "jet.engine.types"}


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_accelerators_are_never_needed_to_import(path: Path) -> None:
    if path.as_posix().startswith(KERNELS):
        return
    needed = {module for module, at_import in imports(path) if at_import}
    assert not {module.partition(".")[0] for module in needed} & OPTIONAL
    files = {module.replace(".", "/") + suffix for module in needed for suffix in (".py", "/")}
    assert not [file for file in files if file.startswith(KERNELS)]


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_every_library_is_a_requirement_or_optional(path: Path) -> None:
    of_scripts = import_names(extra("train")) | {"scripts"} if path.parts[0] == "scripts" else set()
    of_pictures = {"playwright"} if path == Path("scripts/take_pictures.py") else set()
    allowed = {
        "jet",
        *sys.stdlib_module_names,
        *OPTIONAL,
        *import_names(requirements("requirements.txt")),
        *of_scripts,
        *of_pictures,
    }
    assert libraries(path) <= allowed, "name it in requirements.txt"
