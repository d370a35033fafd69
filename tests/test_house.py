"""Check the house rules: documents are true, versions agree, and the tree is clean."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from jet.version import __version__
from tests.conftest import ROOT
from tests.tree import FILES, PROJECT, PYTHON, extra, requirements, text_of

MAX_ASSETS = 36 * 1000**2  # bytes

README = text_of(Path("README.md"))
MAKEFILE = text_of(Path("Makefile"))
DOCUMENTS = [path for path in FILES if path.suffix == ".md"]


# --- README ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def front_matter() -> dict[str, object]:
    opening, block, _ = README.split("---\n", 2)
    assert opening == "", "the front matter must open the file"
    return yaml.safe_load(block)


def test_front_matter_names_tested_versions(front_matter: dict[str, object]) -> None:
    (gradio,) = [r for r in requirements("constraints.txt") if r.name == "gradio"]
    assert gradio.specifier.contains(front_matter["sdk_version"])
    python = front_matter["python_version"]
    assert isinstance(python, str), "quote it: YAML reads 3.10 as 3.1"
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]


def test_front_matter_does_not_promise_more_than_the_licenses(front_matter: dict[str, object]) -> None:
    assert front_matter["license"] == "other"
    assert re.fullmatch(r"[a-z0-9.-]+", front_matter["license_name"])
    assert (ROOT / front_matter["license_link"]).is_file()


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_python_in_documents_parses_and_imports_what_exists(document: Path) -> None:
    exported = set(ast.literal_eval(next(assigned("__all__", Path("jet/__init__.py")))))
    blocks = re.findall(r"^```python\n(.*?)^```", text_of(document), flags=re.MULTILINE | re.DOTALL)
    for node in (node for block in blocks for node in ast.walk(ast.parse(block))):
        if isinstance(node, ast.ImportFrom) and node.module == "jet":
            assert {alias.name for alias in node.names} <= exported


def assigned(name: str, path: Path) -> Iterator[ast.expr]:
    """Yield the values that a module assigns to a global name."""
    for node in ast.parse(text_of(path)).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [name]:
            yield node.value


def test_make_help_lists_every_command() -> None:
    described = re.findall(r"^([a-z-]+):.*## ", MAKEFILE, flags=re.MULTILINE)
    assert set(described) == make_targets()


def make_targets() -> set[str]:
    """Return the commands that the Makefile declares."""
    return set(re.findall(r"^\.PHONY: (.*)$", MAKEFILE, flags=re.MULTILINE)[0].split())


# --- versions and licenses -------------------------------------------------------------------------------


# Each CUDA build of PyTorch asks for one version of these; a pin could not be met beside it.
LEFT_TO_PYTORCH = {"triton"}


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_every_requirement_is_pinned_once_within_its_range(python: str) -> None:
    def for_this_python(candidates: Iterable[Requirement]) -> list[Requirement]:
        environment = {"python_version": python}
        return [one for one in candidates if one.marker is None or one.marker.evaluate(environment)]

    pins: dict[str, list[SpecifierSet]] = defaultdict(list)
    for pin in for_this_python(requirements("constraints.txt")):
        pins[canonicalize_name(pin.name)].append(pin.specifier)
    for wanted in for_this_python([*requirements("requirements.txt"), *extra("dev")]):
        if wanted.name in LEFT_TO_PYTORCH:
            assert canonicalize_name(wanted.name) not in pins
            continue
        (pinned,) = pins[canonicalize_name(wanted.name)]
        (exact,) = pinned
        assert exact.operator == "=="
        assert wanted.specifier.contains(exact.version), f"{wanted} is pinned to {exact}"


def test_changelog_opens_with_this_version_or_what_comes_next() -> None:
    headings = re.findall(r"^## \[([^\]]+)\]", text_of(Path("CHANGELOG.md")), flags=re.MULTILINE)
    assert headings[0] in {"Unreleased", __version__}


def test_licenses_are_named() -> None:
    assert "Apache License" in text_of(Path("LICENSE"))
    for name in ("README.md", "NOTICE"):
        text = " ".join(text_of(Path(name)).split())
        for words in ("Apache", "NVIDIA", "research and evaluation", "non-commercial"):
            assert words in text, f"{name} does not say {words!r}"


# --- the tree --------------------------------------------------------------------------------------------


def test_assets_stay_small() -> None:
    sizes = {path: (ROOT / path).stat().st_size for path in FILES if path.parts[0] == "assets"}
    assert sum(sizes.values()) <= MAX_ASSETS, sizes


FORBIDDEN = {
    "an absolute path of one machine": r"(?<![\w.~-])/(?:home|Users|root|work)/\w",
    "the host of a package registry": r"pypi\.or[g]|pythonhoste[d]\.|npmj[s]\.|deb\.debia[n]\.",
    "a conflict marker": r"^(?:<{7}|>{7}) ",
    "a secret": r"\bhf_[A-Za-z0-9]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY",
}


def test_style_sheets_ask_nothing_of_the_whole_page() -> None:
    # Such a rule is looked up in all of the page at every word that comes: page_marks.js marks the page.
    assert not [path.name for path in (ROOT / "assets" / "web").glob("*.css") if ":has(" in path.read_text()]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_contains(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what], flags=re.MULTILINE)
    skipped = {".json", ".safetensors", ".png", ".docx", ".epub"}
    found = {path: pattern.search(text_of(path)) for path in FILES if path.suffix not in skipped}
    assert not {path: match.group() for path, match in found.items() if match}


@pytest.mark.parametrize("path", PYTHON, ids=str)
def test_file_is_python_3_10(path: Path) -> None:
    ast.parse(text_of(path), filename=str(path), feature_version=(3, 10))


# --- prose -----------------------------------------------------------------------------------------------

RIDDLE = re.compile(r"(What|Who|Of|Whoever|Nothing)\b")
# Files whose stories have the word that explanations do without.
WITH_STORIES = {
    Path("jet/bench/report/context.py"),
    Path("scripts/sample_stories.py"),
    Path("tests/engine/small_tokenizers.py"),
    Path("tests/engine/test_healed_stories.py"),
    Path("tests/engine/text/test_healing.py"),
}


def test_docstrings_begin_with_a_verb_or_their_subject() -> None:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    riddles = [
        f"{path}: {docstring.splitlines()[0]}"
        for path in PYTHON
        for node in ast.walk(ast.parse(text_of(path)))
        if isinstance(node, documented) and (docstring := ast.get_docstring(node)) and RIDDLE.match(docstring)
    ]
    assert not riddles


def test_code_names_its_subjects() -> None:
    code = {path for path in FILES if path.suffix in {".py", ".js"}} - WITH_STORIES
    assert not [str(path) for path in code if re.search(r"nobod[y]", text_of(path), re.IGNORECASE)]
