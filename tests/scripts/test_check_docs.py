from __future__ import annotations

from pathlib import Path

import pytest

from scripts.check_docs import blocks, documents, find_problems, run_examples
from tests.conftest import ROOT


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_documents_name_exists(document: Path) -> None:
    assert find_problems(document) == []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write a small project."""
    (tmp_path / "jet" / "ui").mkdir(parents=True)
    (tmp_path / "jet" / "ui" / "page.py").write_text('parser.add_argument("--loud")\n')
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_page.py").write_text("def test_it_opens() -> None: ...\n")
    (tmp_path / "app.py").write_text('parser.add_argument("--port")\n')
    (tmp_path / "Makefile").write_text("run: setup ## opens the page\n")
    (tmp_path / "OTHER.md").write_text("# What is there?\n")
    return tmp_path


def problems(root: Path, text: str) -> list[str]:
    document = root / "README.md"
    document.write_text(text)
    return [problem.removeprefix("README.md: ") for problem in find_problems(document, root)]


@pytest.mark.parametrize(
    "text",
    [
        "[a](OTHER.md) [b](OTHER.md#what-is-there) [c](https://example.org/x) [d](#here)\n# Here\n",
        "`jet/ui/page.py`, `jet/ui/`, `jet/*/page.py`, `jet/ui/{page,page}.py`, `page.py`",
        "`tests/test_page.py::test_it_opens`",
        "`tool --options page=jet/ui/page.py,folder=jet/ui,add_token=True`",
        '`make run ARGS="--port 1"` and `python -m jet.ui.page --loud --help`',
        "```bash\npython app.py \\\n  --port 1\n```\n",
        "```\nanything/at/all.py and [this](nowhere)\n```\n",
    ],
)
def test_what_exists_is_no_problem(root: Path, text: str) -> None:
    assert problems(root, text) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[a](GONE.md)", "link GONE.md leads nowhere"),
        ("[a](OTHER.md#gone)", "link OTHER.md#gone leads nowhere"),
        ('<img src="gone.png">', "link gone.png leads nowhere"),
        ("`jet/gone.py`", "path jet/gone.py does not exist"),
        ("`page=jet/gone.py,other=1`", "path jet/gone.py does not exist"),
        ("`jet/ui/{page,gone}.py`", "path jet/ui/{page,gone}.py does not exist"),
        ("`gone.py`", "file gone.py does not exist"),
        ("`tests/test_page.py::test_gone`", "test test_gone does not exist"),
        ("`make gone`", "make gone does not exist"),
        ("`python -m jet.gone`", "module jet.gone does not exist"),
        ("```bash\npython app.py --gone\n```\n", "app has no option --gone"),
        ("```\npython -m jet.ui.page --port 1\n```\n", "jet.ui.page has no option --port"),
    ],
)
def test_what_does_not_exist_is_named(root: Path, text: str, wrong: str) -> None:
    assert problems(root, text) == [wrong]


EXAMPLES = """
```python
raise SystemExit("not marked")
```
<!-- runs -->
```python
number = 1
```
Text.
<!-- runs -->
```python
assert number == 1
```
<!-- runs -->
```bash
test -f app.py
```
"""


def test_marked_examples_run_in_order(root: Path) -> None:
    document = root / "README.md"
    document.write_text(EXAMPLES)
    assert [block.runs for block in blocks(EXAMPLES)] == [False, True, True, True]
    assert run_examples(document, root) == []


@pytest.mark.parametrize(
    ("before", "after"), [("number == 1", "number == 2"), ("test -f app.py", "false | true")]
)
def test_an_example_that_fails_is_shown(root: Path, before: str, after: str) -> None:
    document = root / "README.md"
    document.write_text(EXAMPLES.replace(before, after))
    (problem,) = run_examples(document, root)
    assert "an example failed" in problem and after in problem
