"""Check that links, paths, commands and options of README and docs exist, and that marked examples run.

python -m scripts.check_docs            all of it
python -m scripts.check_docs --static   without running examples

An example runs if the line before its block is `<!-- runs -->`. After `<!-- runs with the page -->`, the page
with the story model is served meanwhile, and its URL replaces http://127.0.0.1:7860. Python blocks of a
document run in order in one namespace; other blocks are bash.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("*.md", "docs/*.md", "assets/**/*.md")
LISTS_THE_PAST = {"CHANGELOG.md"}  # names things that are gone
PAGE = "http://127.0.0.1:7860"
PATIENCE_S = 300

_FENCE = re.compile(
    r"^(?P<mark><!-- runs[^\n]*-->\n)?```(?P<kind>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
_SPAN = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
_LINK = re.compile(r"\]\(([^)\s]+)\)|\b(?:src|href)=\"([^\"]+)\"")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
_PATH = re.compile(
    r"(?<![\w./~-])(?:app\.py|Makefile|(?:jet|tests|scripts|docs|assets|deploy|dev)/(?:[\w./*-]|\{[\w./*,-]*\})*)"
)
_FILE = re.compile(r"(?<![\w./*-])(\w+\.(?:py|js|mjs|css|md|toml))(?![\w/])")
_TEST = re.compile(r"\b(test_\w+)\b(?!\.py)")
_MODULE = re.compile(r"-m ((?:jet|scripts|tests)(?:\.\w+)*)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
_MAKE = re.compile(r"\bmake ([a-z][a-z-]*)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a document: language, code, whether it runs, and whether it needs the page."""

    kind: str
    code: str
    runs: bool
    beside_page: bool


def documents(root: Path = ROOT) -> list[Path]:
    """Return the documents to check."""
    found = (path for pattern in DOCUMENTS for path in root.glob(pattern))
    return sorted(path for path in found if "node_modules" not in path.parts)


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a document."""
    return [
        Block(found["kind"], found["code"], bool(found["mark"]), "page" in (found["mark"] or ""))
        for found in _FENCE.finditer(text)
    ]


# --- what stands there -------------------------------------------------------------------------------------


def find_problems(document: Path, root: Path = ROOT) -> list[str]:
    """List links, paths, modules, options and make targets that a document names but that do not exist."""
    text = document.read_text(encoding="utf-8")
    problems = [f"link {link} leads nowhere" for link in _links(text) if not _leads(document, link)]
    if document.name not in LISTS_THE_PAST:
        spans = _SPAN.findall(_FENCE.sub("", text))
        for code in [*(block.code for block in blocks(text)), *spans]:
            problems += [*_missing_paths(code, root), *_missing_commands(code, root)]
        problems += [problem for span in spans for problem in _missing_names(span, root)]
    return [f"{document.relative_to(root)}: {problem}" for problem in problems]


def _links(text: str) -> list[str]:
    plain = _SPAN.sub("", _FENCE.sub("", text))
    return [one or other for one, other in _LINK.findall(plain) if "://" not in (one or other)]


def _leads(document: Path, link: str) -> bool:
    place, _, anchor = link.partition("#")
    target = document.parent / place if place else document
    if not target.exists() or link.startswith("mailto:"):
        return link.startswith("mailto:")
    if not anchor or target.suffix != ".md":
        return True
    return anchor in {_anchor(heading) for heading in _HEADING.findall(target.read_text(encoding="utf-8"))}


def _anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def _missing_paths(code: str, root: Path) -> Iterator[str]:
    for path in _PATH.findall(code):
        if not all(any(root.glob(one)) for one in _expand(path.rstrip("/.,"))):
            yield f"path {path} does not exist"


def _missing_names(code: str, root: Path) -> Iterator[str]:
    for name in _FILE.findall(_PATH.sub("", code)):
        if not any(_files_named(name, root)):
            yield f"file {name} does not exist"
    for name in _TEST.findall(_PATH.sub("", code)):
        if not any(re.search(rf"def {name}\b|/{name}\.py", text) for text in _test_sources(root)):
            yield f"test {name} does not exist"


def _expand(path: str) -> list[str]:
    """Expand names in braces into one path each."""
    found = re.search(r"\{([^}]*)\}", path)
    if found is None:
        return [path]
    return [one for name in found[1].split(",") for one in _expand(path.replace(found[0], name, 1))]


def _files_named(name: str, root: Path) -> Iterator[Path]:
    for folder in ("jet", "tests", "scripts", "docs", "assets/web", "deploy", "dev"):
        yield from (root / folder).rglob(name)
    yield from root.glob(name)


def _test_sources(root: Path) -> Iterator[str]:
    for path in (root / "tests").rglob("*.py"):
        yield f"/{path.name}\n{path.read_text(encoding='utf-8')}"


def _missing_commands(code: str, root: Path) -> Iterator[str]:
    makefile = root / "Makefile"
    targets = (
        set(re.findall(r"^([a-z-]+):", makefile.read_text(), re.MULTILINE)) if makefile.exists() else set()
    )
    for line in re.sub(r"\\\n", " ", code).splitlines():
        yield from (
            f"make {target} does not exist" for target in _MAKE.findall(line) if target not in targets
        )
        modules = _MODULE.findall(line)
        yield from (f"module {name} does not exist" for name in modules if not _program(name, root))
        program = [*modules, *(["app"] if re.search(r"\bapp\.py\b|\bmake run\b", line) else [])]
        for name in program[:1]:
            sources = "".join(path.read_text(encoding="utf-8") for path in _program(name, root))
            known = {"--help", *_OPTION.findall(sources)}
            yield from (
                f"{name} has no option {option}" for option in _OPTION.findall(line) if option not in known
            )


def _program(name: str, root: Path) -> list[Path]:
    """Return the files that define the command line of a module."""
    place = root / name.replace(".", "/")
    if place.is_dir():
        return [path for path in place.rglob("*.py") if "__pycache__" not in path.parts]
    return [place.with_suffix(".py")] if place.with_suffix(".py").exists() else []


# --- what runs ---------------------------------------------------------------------------------------------


def run_examples(document: Path, root: Path = ROOT) -> list[str]:
    """Run the marked blocks of a document; return a message for each failure."""
    marked = [block for block in blocks(document.read_text(encoding="utf-8")) if block.runs]
    problems = []
    python = [block for block in marked if block.kind == "python"]
    others = [block for block in marked if block.kind != "python"]
    for beside_page in (False, True):
        code = "\n".join(block.code for block in python if block.beside_page == beside_page)
        commands = [block.code for block in others if block.beside_page == beside_page]
        if not code and not commands:
            continue
        with _page(root) if beside_page else _no_page() as address:
            programs = [[sys.executable, "-c", code]] if code else []
            programs += [["bash", "-euo", "pipefail", "-c", command] for command in commands]
            for *program, source in programs:
                problems += _run([*program, source.replace(PAGE, address)], root)
    return [f"{document.relative_to(root)}: {problem}" for problem in problems]


def _run(command: Sequence[str], root: Path) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
        )
    except subprocess.TimeoutExpired:
        return [f"an example takes longer than {PATIENCE_S} s:\n{command[-1]}"]
    return [f"an example failed:\n{command[-1]}\n{done.stderr[-2000:]}"] if done.returncode else []


@contextmanager
def _no_page() -> Iterator[str]:
    yield PAGE


@contextmanager
def _page(root: Path) -> Iterator[str]:
    """Serve the page with the story model; yield its URL."""
    command = [sys.executable, "app.py", "--model", "assets/story-model"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            yield _address(process.stdout, log)
        finally:
            process.terminate()
            process.wait(60)


def _address(output: IO[str] | None, log: IO[str]) -> str:
    assert output is not None
    for line in output:
        if found := re.search(r"http://[\w.:\[\]]+", line):
            return found[0]
    log.seek(0)
    raise RuntimeError(f"The page did not start: {log.read()[-2000:]}")


def main(arguments: Sequence[str]) -> int:
    """Check all documents. Returns the exit code."""
    problems = [problem for document in documents() for problem in find_problems(document)]
    if "--static" not in arguments:
        problems += [problem for document in documents() for problem in run_examples(document)]
    for problem in problems:
        print(problem)
    print(f"{len(documents())} documents, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
