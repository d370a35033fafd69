"""Test the modules of `assets/web`: those without DOM in Node.js, and the bundled script."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from jet.ui.web import WEB, ModuleError, join, script
from tests.web.node import run_node

TESTS = sorted(Path(__file__).parent.glob("*.test.mjs"))
MODULES = sorted(WEB.glob("*.js"))
WITHOUT_DOM = sorted(path for path in MODULES if "No DOM" in path.read_text(encoding="utf-8"))


def test_the_modules_pass_their_own_tests() -> None:
    done = run_node("--test", "--test-reporter=tap", *TESTS)
    passed = re.search(r"^# pass (\d+)$", done.stdout, re.MULTILINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert passed and int(passed[1]) >= len(TESTS), done.stdout


def test_every_module_without_dom_has_tests() -> None:
    assert [path.stem for path in WITHOUT_DOM] == [path.name.removesuffix(".test.mjs") for path in TESTS]


@pytest.mark.parametrize("path", WITHOUT_DOM, ids=lambda path: path.stem)
def test_a_module_without_dom_touches_none(path: Path) -> None:
    source = re.sub(r"/\*.*?\*/|//[^\n]*", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not re.findall(r"\b(?:document|window)\.|\baddEventListener\b|\./dom\.js", source)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_importing_a_module_does_nothing(path: Path) -> None:
    """Check that modules touch the page only in `install` or `start`: import order must not matter."""
    for line in re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL).splitlines():
        assert not re.match(r"[\w.]+\(", line), line
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450


def test_the_page_gets_all_modules_as_one_script_that_can_be_read() -> None:
    text, address = script()
    assert re.fullmatch(r"web/[0-9a-f]{16}/app\.js", address)
    done = run_node("--input-type=module", "--check", stdin=text)
    assert done.returncode == 0, done.stderr
    for path in MODULES:
        assert f"const ${path.stem}=" in text, f"nothing imports {path.name}"


SOURCES = {
    "main.js": """// The main one.
import * as numbers from "./numbers.js";
import { add as plus, Box } from "./sums.js";

/** Adds numbers. */
export function result() {
  return [plus(numbers.one, 2), new Box().value /* kept */];
}
""",
    "numbers.js": "export const one = 1;\n",
    "sums.js": """import { one } from "./numbers.js";

export class Box {
  value = one; // a number
}
export async function later() {}
/**
 * Adds.
 */
export const add = (a, b) => a + b;
""",
}
PROGRAM = 'import { result } from "./%s"; console.log(JSON.stringify(result()));'


def test_joined_modules_do_what_the_modules_do(tmp_path: Path) -> None:
    found = []
    for name, source in {**SOURCES, "joined.js": join("main.js", SOURCES)}.items():
        (tmp_path / name).write_text(source)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    for name in ("main.js", "joined.js"):
        (tmp_path / "program.mjs").write_text(PROGRAM % name)
        done = run_node(tmp_path / "program.mjs")
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert found == [[3, 1], [3, 1]]


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        (
            {"numbers.js": 'import { add } from "./sums.js";\nexport const one = 1;\n'},
            "numbers.js -> sums.js -> numbers.js",
        ),
        ({"numbers.js": "export const two = 2;\n"}, "sums.js imports 'one' from numbers.js"),
        ({"numbers.js": "export let one = 1;\n"}, "export let one"),
        ({"numbers.js": "export default 1;\nexport const one = 1;\n"}, "export default"),
        ({"main.js": 'import one from "./numbers.js";\n'}, "import one"),
        ({"main.js": 'import { x } from "./missing.js";\n'}, "missing.js"),
    ],
)
def test_what_cannot_be_joined_is_named(changes: dict[str, str], wrong: str) -> None:
    with pytest.raises(ModuleError, match=re.escape(wrong)):
        join("main.js", {**SOURCES, **changes})
