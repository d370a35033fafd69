"""Test that documents, endpoints and page describe banned phrases as the engine treats them."""

from __future__ import annotations

import re

import pytest

from jet.engine.banned import MAX_ATTEMPTS
from jet.engine.banned_lists import ready_lists
from jet.engine.text.banned_phrases import MAX_GAP
from jet.server.openai.schema import CompletionRequest
from jet.server.openai.spellings import SPELLINGS
from jet.ui.never_write import control
from tests.conftest import ROOT
from tests.engine.text.test_banned_phrases import begins

API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
SECTION = API.split("## Banned phrases\n")[1].split("\n## ")[0]
SAMPLERS = (ROOT / "docs" / "samplers.md").read_text(encoding="utf-8")
GENERATE = (ROOT / "jet" / "ui" / "api.py").read_text(encoding="utf-8")


def test_the_ready_lists_have_the_same_names_everywhere() -> None:
    names = list(ready_lists())
    listed = SECTION.split("`banned_lists` names ready lists:")[1].split("(")[0]
    assert re.findall(r"`([^`]+)`", listed) == names
    said = GENERATE.split("banned_lists: Names")[1].split('"""')[0]
    assert re.findall(r'"([^"]+)"', said) == names
    assert re.findall(r'data-banned-list="([^"]+)"', control()) == names


def test_fields_and_their_other_names_are_those_that_are_read() -> None:
    row = next(line for line in API.splitlines() if line.startswith("| `banned` |"))
    assert re.findall(r"`(\w+)`", row) == ["banned", *SPELLINGS["banned"]]
    help = CompletionRequest.model_fields["banned"].description
    assert help is not None and all(name in help for name in SPELLINGS["banned"])
    assert "banned_lists" in CompletionRequest.model_fields and "`banned_lists`" in API
    assert "api.md#banned-phrases" in SAMPLERS and "`banned`" in SAMPLERS


def test_numbers_are_the_engines() -> None:
    assert f"up to {MAX_GAP} characters" in SECTION
    assert f"After {MAX_ATTEMPTS} tries" in SECTION


@pytest.mark.parametrize("form", ["whispers", "whispered", "whispering", "whisper’s"])
def test_the_forms_that_are_named_are_found(form: str) -> None:
    assert f"“{form}”" in SECTION
    assert begins(["whisper"], f"a {form} b") is not None
    assert begins(['"whisper"'], f"a {form} b") is None


@pytest.mark.parametrize(
    ("phrase", "text", "found"),
    [
        ("a testament to", "so A testament—to it", True),
        ("whisper", "a whisperer", False),
        ("shimmer*", "it shimmeringly", True),
        ("squared * shoulders", "he squared his shoulders", True),
        ("—", "so—it", True),
    ],
)
def test_the_examples_are_as_they_say(phrase: str, text: str, found: bool) -> None:
    assert phrase in SECTION
    assert (begins([phrase], text) is not None) == found
