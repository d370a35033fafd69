"""Test that the browser's parser, for printer and clipboard, agrees with the one that makes files."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from jet.files.markup import parse
from tests.files.samples import PROSE, long_story
from tests.web.node import run_node

MODULE = Path(__file__).resolve().parents[2] / "assets" / "web" / "manuscript.js"
SCRIPT = """
import { readFileSync } from "node:fs";
import { blocksOf } from %s;
const texts = JSON.parse(readFileSync(%s, "utf8"));
console.log(JSON.stringify(texts.map(blocksOf)));
"""
PARTS = [
    *(
        "*a*",
        "_b_",
        "**c**",
        "***d***",
        "*",
        "**",
        "_",
        "#",
        "# ",
        "## Two",
        "Chapter 3",
        "chapter iv: x",
        "***",
    ),
    *(
        "* * *",
        "---",
        "~~~",
        "⁂",
        "• • •",
        "a_b_c",
        "2*3*4",
        "é*a*",
        "*灯*",
        "שלום",
        "😀",
        " ",
        "\t",
        "word",
        "Epilogue",
    ),
    *("\n", "\n", "\n\n", "Book Twelve.", "＊＊＊", "“*Yes,*”", "*two words*", "_a_*b*"),
]


def test_both_find_the_same_blocks(tmp_path: Path) -> None:
    source = random.Random(7)
    texts = ["".join(source.choices(PARTS, k=source.randrange(1, 12))) for _ in range(1_500)]
    texts += [PROSE, long_story(2_000), "", "\n", "x" * 200]
    given = tmp_path / "texts.json"
    given.write_text(json.dumps(texts), encoding="utf-8")
    script = SCRIPT % (json.dumps(MODULE.as_uri()), json.dumps(str(given)))
    done = run_node("--input-type=module", "--eval", script)
    assert done.returncode == 0, done.stderr
    for text, theirs in zip(texts, json.loads(done.stdout), strict=True):
        assert theirs == ours(text), repr(text)


def ours(text: str) -> list[dict[str, Any]]:
    """Return the blocks of a text in the form that the browser's parser returns."""
    return [
        {
            "kind": block.kind,
            "level": block.level,
            "lines": [[{"text": run.text, "mark": run.mark} for run in line] for line in block.lines],
        }
        for block in parse(text).blocks
    ]
