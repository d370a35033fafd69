"""Check that the repository is a working Hugging Face Space."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from scripts.check_space import make_environment, resolve, wanted
from tests.conftest import ROOT
from tests.tree import requirements, text_of

COLORS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
HARDWARE = {
    *("cpu-basic", "cpu-upgrade", "zero-a10g", "t4-small", "t4-medium", "l4x1", "l4x4"),
    *("l40sx1", "l40sx4", "l40sx8", "a10g-small", "a10g-large", "a10g-largex2", "a10g-largex4", "a100-large"),
}
# The configuration reference of Spaces: every key that this README may have, and what its value must be.
REFERENCE = {
    "title": lambda value: isinstance(value, str) and value,
    "emoji": lambda value: isinstance(value, str) and not value.isascii(),
    "colorFrom": lambda value: value in COLORS,
    "colorTo": lambda value: value in COLORS,
    "sdk": lambda value: value == "gradio",
    "sdk_version": lambda value: isinstance(value, str) and Version(value),
    "python_version": lambda value: isinstance(value, str) and re.fullmatch(r"3\.\d+(\.\d+)?", value),
    "app_file": lambda value: (ROOT / value).is_file(),
    "short_description": lambda value: 0 < len(value) <= 60,
    "models": lambda value: all(re.fullmatch(r"[\w.-]+/[\w.-]+", model) for model in value),
    "preload_from_hub": lambda value: all(re.match(r"[\w.-]+/[\w.-]+( \S+)*$", line) for line in value),
    "suggested_hardware": lambda value: value in HARDWARE,
    "startup_duration_timeout": lambda value: re.fullmatch(r"\d+(\.\d+)?[smh]", value),
    "license": lambda value: value == "other",
    "license_name": lambda value: re.fullmatch(r"[a-z0-9.-]+", value),
    "license_link": lambda value: (ROOT / value).is_file(),
    "tags": lambda value: all(isinstance(tag, str) and re.fullmatch(r"[a-z0-9-]+", tag) for tag in value),
    "pinned": lambda value: isinstance(value, bool),
}
NEEDED = {"title", "sdk", "sdk_version", "app_file", "python_version", "license", "short_description"}

FRONT_MATTER = yaml.safe_load(text_of(Path("README.md")).split("---\n")[1])


@pytest.mark.parametrize("key", FRONT_MATTER)
def test_every_key_is_in_the_reference_and_its_value_fits(key: str) -> None:
    assert key in REFERENCE
    assert REFERENCE[key](FRONT_MATTER[key])


def test_nothing_that_a_space_needs_is_missing() -> None:
    assert set(FRONT_MATTER) >= NEEDED


def test_zerogpu_can_run_it() -> None:
    """Check that ZeroGPU's versions are allowed: Python 3.10 and 3.12, PyTorch 2.8 to 2.11."""
    assert FRONT_MATTER["python_version"] in ("3.10", "3.12")
    torch = next(one for one in requirements("requirements.txt") if one.name == "torch")
    assert all(torch.specifier.contains(version) for version in ("2.8.0", "2.11.0"))


def test_there_is_no_build_step() -> None:
    lines = [line.partition("#")[0].strip() for line in text_of(Path("requirements.txt")).splitlines()]
    for line in filter(None, lines):
        assert not line.startswith(("-", "git+", "http:", "https:", ".")), (
            "a Space installs names from the index only"
        )
    assert not (ROOT / "packages.txt").exists() and not (ROOT / "pre-requirements.txt").exists()


@pytest.mark.thorough
@pytest.mark.timeout(400)
def test_requirements_fit_together_in_an_empty_environment(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "empty")
    try:
        found = resolve(python, timeout_s=300)
    except subprocess.TimeoutExpired:
        pytest.skip("THE PACKAGE INDEX DOES NOT ANSWER IN TIME: what a Space installs has not been checked")
    except subprocess.CalledProcessError as error:
        if re.search("Temporary failure|Connection|No matching distribution found for gradio", error.stderr):
            pytest.skip("NO PACKAGE INDEX: what a Space installs has not been checked")
        raise AssertionError(error.stderr) from None
    assert found["gradio"] == FRONT_MATTER["sdk_version"]
    for one in requirements("requirements.txt"):
        assert SpecifierSet(str(one.specifier)).contains(found[canonicalize_name(one.name)])
    assert wanted()[0] == f"gradio=={FRONT_MATTER['sdk_version']}"
