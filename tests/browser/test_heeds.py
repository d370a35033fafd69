"""Test in Chromium that each field of World says whether the running model heeds it."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from jet.engine import heeds
from jet.engine.heeds import Heed, Heeds, Rate
from jet.ui import generation
from tests.browser.page_actions import STORY, select_tab
from tests.ui.served import Served

pytestmark = pytest.mark.browser

HEEDS = Heeds(
    "c0ffee", {"memory": Heed(Rate(0.7, 0.0), 0.5, 0.9, 60), "note": Heed(Rate(0.3, 0.3), -0.1, 0.1, 60)}
)


def test_fields_say_what_the_running_model_does_with_them(
    tab: Page, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JET_CACHE_DIR", str(tmp_path))
    heeds.write(HEEDS, heeds.cached_path("c0ffee"))
    served.engine.checkpoint = "c0ffee"
    monkeypatch.setattr(generation, "INFO_AGE_S", 0.0)
    tab.fill(STORY, "Mara slept.")
    select_tab(tab, "guidance")
    memory, note, lore = (tab.locator(f"#jet-heeds-{name}") for name in ("memory", "note", "lore"))
    expect(memory).to_contain_text(
        "This model mostly heeds this. What is told here comes up in 7 of 10 stories."
    )
    expect(note).to_contain_text("This model hardly heeds this.")
    expect(lore).to_contain_text("Not measured for this model yet: run python -m jet.evaluate world --model")
    expect(tab.get_by_role("textbox", name="Memory")).to_have_accessible_description(
        "This model mostly heeds this. What is told here comes up in 7 of 10 stories."
    )
    served.engine.checkpoint = "decaf"  # another model under the same name
    tab.fill("#jet-memory", "Mara has a cat.")
    tab.press("#jet-memory", "Tab")
    expect(memory).to_contain_text("Not measured for this model yet")
    tab.evaluate("document.getElementById('jet-new').click()")  # draws the fields anew
    expect(tab.locator("#jet-memory")).to_have_value("")
    expect(memory).to_contain_text("Not measured for this model yet")
