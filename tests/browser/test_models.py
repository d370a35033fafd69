"""Test the Models part in Chromium: choose a model, watch, cancel and resume a download, change back."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from gradio_client import Client
from huggingface_hub import constants
from playwright.sync_api import Browser, Page, expect

from jet.engine import hub as hub_module
from jet.engine.holder import ModelHolder
from jet.engine.loading import STORY_MODEL, LocalConfig
from jet.engine.official_models import OFFICIAL_2B
from jet.server.hosting import Hosting
from jet.server.limits import PUBLIC
from jet.ui import models as models_module
from jet.ui.page import build, launch
from tests.browser.page_actions import STORY, begin, select_tab, set_most_tokens, story, wait_for_words
from tests.engine.hub_server import HubServer, hub_server
from tests.engine.small_checkpoint import save_small_checkpoint
from tests.engine.test_model_switch import SmallMachine

INT4 = 'button[aria-label$=": Jet-Nemotron 2B in int4"]'
CHANGE = "#jet-model-change-text"
MODEL = "#jet-page .jet-model-info b"


@dataclass
class Models:
    """A page on which the model can be changed, the hub that it asks, and its simulated machine."""

    url: str
    server: HubServer
    machine: SmallMachine


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    """Serve the page over the story model; on the hub, a small checkpoint takes the place of the 2B."""
    folder = tmp_path_factory.mktemp("models")
    machine = SmallMachine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JET_CACHE_DIR", str(folder / "jet"))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
        patch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
        patch.setattr("huggingface_hub.file_download.time.sleep", lambda s: None)
        patch.setattr("huggingface_hub.utils._http.time.sleep", lambda s: None)
        patch.setattr(models_module, "Machine", lambda device: machine)
        with hub_server(save_small_checkpoint(folder / "repository"), OFFICIAL_2B) as server:
            patch.setattr(constants, "ENDPOINT", server.url)
            template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
            patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            holder = ModelHolder()
            source = holder.handle(LocalConfig(STORY_MODEL, "cpu", context=1024, max_running_requests=2))
            source.engine()
            demo = build(source)
            url = launch(demo)
            try:
                yield Models(url, server, machine)
            finally:
                server.cut, server.held = True, None
                demo.close(verbose=False)
                holder.close()


@pytest.fixture
def page(browser: Browser, site: Models) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.goto(site.url)
    page.wait_for_selector(MODEL)
    yield page
    context.close()


def finish(page: Page) -> str:
    """Wait for the end of a generation; return the story."""
    expect(page.locator("#jet-continue")).to_be_enabled(timeout=60_000)
    page.wait_for_function("jetStories.isSettled()")
    return story(page)


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_choose_watch_cancel_go_on_write_and_change_back(page: Page, site: Models) -> None:
    set_most_tokens(page, 20)
    begin(page, "The keeper climbed the stairs.")
    first = finish(page)
    assert first.startswith("The keeper climbed the stairs.") and len(first) > 40

    select_tab(page, "models")
    rows = page.locator(".jet-model", has_text="Jet-Nemotron 2B").first
    expect(rows).to_contain_text("NVIDIA, research and evaluation only")
    expect(rows).to_contain_text(re.compile(r"about \d+(\.\d)? tok/s"))
    expect(page.locator(".jet-suggestion")).to_contain_text("This computer can run Jet-Nemotron 2B in int8")
    expect(page.locator(".jet-runs")).to_contain_text("runs now")

    site.server.held = 300_000
    page.click(INT4)
    expect(page.locator(CHANGE)).to_contain_text(
        re.compile(r"Downloading Jet-Nemotron 2B in int4: 0\.\d MB of")
    )
    expect(page.locator("#jet-model-progress")).to_be_visible()
    expect(page.locator(INT4)).to_be_disabled()

    # Another tab sees the same, and writes meanwhile.
    other = page.context.new_page()
    other.goto(site.url)
    other.wait_for_selector(MODEL)
    set_most_tokens(other, 20)
    begin(other, "Meanwhile a ship")
    finish(other)
    select_tab(other, "models")
    expect(other.locator(CHANGE)).to_contain_text("Downloading Jet-Nemotron 2B in int4")
    other.click("#jet-model-change button")
    expect(page.locator(CHANGE)).to_contain_text(
        "Canceled. What has come is kept. Story model is still here."
    )
    expect(page.locator(INT4)).to_be_enabled()
    assert story(page) == first

    # On from there, while it writes: what is written stays, and says why it ends.
    site.server.held = None
    select_tab(page, "settings")
    set_most_tokens(page, 2000)
    select_tab(page, "models")
    page.click(INT4)
    page.click("#jet-continue")
    wait_for_words(page, first)
    expect(page.locator(CHANGE)).to_have_text("Jet-Nemotron 2B in int4 writes from now on.", timeout=60_000)
    kept = finish(page)
    assert kept.startswith(first) and len(kept) > len(first)
    assert site.server.ranges, "the download went on where it was"
    expect(page.locator(MODEL)).to_have_text("jet-ai/Jet-Nemotron-2B")
    expect(page.locator(".jet-runs")).to_contain_text("int4")

    select_tab(page, "settings")
    set_most_tokens(page, 20)
    page.click("#jet-continue")
    wait_for_words(page, kept)
    nonsense = finish(page)
    assert nonsense.startswith(kept)

    # The other tab hears of it, and its story is there.
    expect(other.locator(MODEL)).to_have_text("jet-ai/Jet-Nemotron-2B")
    assert story(other).startswith("Meanwhile a ship") and len(story(other)) > 20

    select_tab(page, "models")
    page.click('button[aria-label="Use: Story model"]')
    expect(page.locator(CHANGE)).to_have_text("Story model writes from now on.", timeout=60_000)
    expect(page.locator(MODEL)).to_contain_text("Story model")
    assert story(page) == nonsense
    page.click("#jet-undo")
    expect(page.locator(STORY)).to_have_value(kept)
    page.click("#jet-continue")
    wait_for_words(page, kept)
    assert finish(page).startswith(kept)


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_what_goes_wrong_is_said_and_the_old_model_writes_on(
    page: Page, site: Models, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page.fill(STORY, "Once")
    select_tab(page, "models")
    int8 = INT4.replace("int4", "int8")
    shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
    select_tab(page, "settings")
    select_tab(page, "models")

    with monkeypatch.context() as patch:
        patch.setattr(hub_module.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 100))
        page.click(int8)
        expect(page.locator(CHANGE)).to_contain_text("make room there, or set HF_HOME")
    expect(page.locator(CHANGE)).to_contain_text("Story model is still here.")

    site.machine.available = 10**8
    page.click(int8)
    expect(page.locator(CHANGE)).to_contain_text(re.compile(r"takes 2\.\d GB of memory, and .* MB are free"))
    site.machine.available = 16 * 10**9

    site.server.held = 300_000
    page.click(int8)
    expect(page.locator(CHANGE)).to_contain_text("Downloading")
    site.server.cut = True
    expect(page.locator(CHANGE)).to_contain_text("The hub cannot be reached", timeout=30_000)
    expect(page.locator(CHANGE)).to_contain_text("What has come is kept")
    site.server.cut, site.server.held = False, None

    file = site.server.folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:100_000])
    page.click(int8)
    expect(page.locator(CHANGE)).to_contain_text("model.safetensors", timeout=30_000)
    expect(page.locator(CHANGE)).to_contain_text("Story model is still here.")
    file.write_bytes(whole)

    page.fill("#jet-model-folder-path", str(tmp_path))
    page.click("#jet-model-folder button")
    expect(page.locator("#jet-toast")).to_contain_text("no config.json")
    save_small_checkpoint(tmp_path / "own")
    page.fill("#jet-model-folder-path", str(tmp_path / "own"))
    page.click("#jet-model-folder button")
    expect(page.locator(".jet-model h2", has_text="own")).to_be_visible()
    expect(page.locator("#jet-model-folder-path")).to_have_value("")

    set_most_tokens(page, 20)
    begin(page, "Once")
    assert finish(page).startswith("Once")


def test_a_public_page_has_no_way_to_change_the_model(browser: Browser) -> None:
    source = ModelHolder().handle(LocalConfig(STORY_MODEL, "cpu", context=512, max_running_requests=1))
    hosting = Hosting(PUBLIC)
    assert models_module.make_switch(source, hosting) is None
    demo = build(source, hosting)
    url = launch(demo, hosting=hosting)
    try:
        page = browser.new_page()
        page.goto(url)
        page.wait_for_selector(STORY)
        assert page.locator("#jet-tab-models, #jet-models").count() == 0
        page.close()
        assert not [
            name
            for name in Client(url, verbose=False).view_api(return_format="dict")["named_endpoints"]
            if "model" in name
        ]
    finally:
        demo.close(verbose=False)
        source.holder.close()
