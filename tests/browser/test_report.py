"""Test the performance report in the page: one click, live progress, plots, a download; stories continue."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from jet.ui import reporting
from tests.browser.page_actions import (
    begin,
    expect_nothing_outside,
    expect_unlocked,
    select_tab,
    set_most_tokens,
    story,
)
from tests.conftest import ROOT
from tests.ui.served import Served

pytestmark = [pytest.mark.browser, pytest.mark.alone]

# In the place of a minute of measuring: two parts, then a report that was measured once.
MEASURES = """
import json, pathlib, shutil, sys, time
source, folder = map(pathlib.Path, sys.argv[1:3])
for done, part in enumerate(["bandwidth", "context.512"]):
    print(json.dumps({"part": part, "done": done, "total": 2}), flush=True)
    time.sleep(1.5)
for ending in ("html", "md", "json"):
    shutil.copy(source / f"report.{ending}", folder)
print(json.dumps({"message": "40% of what this machine can do"}), flush=True)
"""
REPORT = ROOT / "docs" / "reports" / "cpu-quick"


def test_one_click_makes_the_report(
    tab: Page, served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        reporting, "arguments", lambda info, folder: ["-c", MEASURES, str(REPORT), str(folder)]
    )
    select_tab(tab, "engine")
    tab.click("#jet-start-report")
    progress = tab.locator("#jet-report")
    expect(progress).to_contain_text("Measuring: bandwidth, 0 of 2 done")
    select_tab(tab, "settings")
    set_most_tokens(tab, 6)
    begin(tab, "A")  # a story in the middle of it
    expect_unlocked(tab)
    assert story(tab) == "A A0 A1 A2 A3 A4 A5"
    select_tab(tab, "engine")
    expect(progress).to_contain_text("Measuring: context.512, 1 of 2 done")
    expect(progress).to_contain_text("40% of what this machine can do")
    frame = tab.frame_locator(".jet-report")
    expect(frame.locator("h1")).to_have_text("Performance report")
    picture = frame.locator("img").first
    assert picture.evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 100
    for width in (390, 1600):
        tab.set_viewport_size({"width": width, "height": 900})
        expect_nothing_outside(tab, width)
    with tab.expect_download() as download:
        tab.click("#jet-report a >> text=json")
    download.value.save_as(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["schema"] == 1
    select_tab(tab, "settings")
