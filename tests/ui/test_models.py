"""Test the Models part: its commands, what it shows, and how the page shows a changed model."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from gradio import Request as GradioRequest
from huggingface_hub import constants

from jet.api import RequestStats
from jet.engine.catalog import Catalog
from jet.engine.holder import ModelHolder
from jet.engine.loading import STORY_MODEL, LocalConfig
from jet.engine.model_switch import ModelSwitch
from jet.engine.official_models import OFFICIAL_2B
from jet.server.hosting import Hosting
from jet.server.limits import PUBLIC
from jet.story.document import Document
from jet.ui import finish_messages, format
from jet.ui.commands import Command
from jet.ui.generation import GenerationState
from jet.ui.handlers import PageController
from jet.ui.models import COMMAND_NAMES, REFUSED, make_switch
from tests.engine.fakes import FakeRunner, make_engine
from tests.engine.test_model_switch import SmallMachine
from tests.ui.stand_in import StandInSource

BASE = LocalConfig(STORY_MODEL, "cpu")


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JET_CACHE_DIR", str(tmp_path / "jet"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def act(controller: PageController, type: str, **fields: object) -> dict[str, Any]:
    """Run a command as a page's tab does."""
    request = GradioRequest(session_hash="tab")
    request.request = SimpleNamespace(client=None)  # type: ignore[assignment]
    command = json.dumps({"type": type, "n": 1, **fields})
    return json.loads(asyncio.run(controller.run_command(request, command)))


def controller(hosting: Hosting | None = None, offered: bool = True) -> PageController:
    handle = ModelHolder(lambda config: make_engine(FakeRunner())).handle(BASE)
    handle.engine()
    switch = ModelSwitch(handle, Catalog(BASE, SmallMachine()))
    switch._measured = True
    return PageController(handle, hosting, switch if offered else None)


@pytest.mark.parametrize("name", COMMAND_NAMES)
def test_a_page_without_the_part_refuses_its_commands(name: str) -> None:
    reply = act(controller(Hosting(PUBLIC), offered=False), name, id=f"{OFFICIAL_2B}:int4", folder="/tmp")
    assert reply["error"] == REFUSED and "models" not in reply


@pytest.mark.parametrize(
    ("hosting", "allowed"),
    [
        (Hosting(), True),
        (Hosting(PUBLIC), False),
        (Hosting(accounts=SimpleNamespace()), False),  # type: ignore[arg-type]
        (Hosting(PUBLIC, models=True), True),
        (Hosting(models=False), False),
    ],
)
def test_who_may_choose_the_model(hosting: Hosting, allowed: bool) -> None:
    handle = ModelHolder().handle(BASE)
    assert (make_switch(handle, hosting) is not None) == allowed
    assert make_switch(StandInSource(), hosting) is None, "only a model in this process can be changed"


def test_strangers_cannot_look_for_folders() -> None:
    reply = act(controller(Hosting(PUBLIC, models=True)), "add_model_folder", folder="/etc")
    assert reply["error"] == REFUSED


def test_the_list_tells_of_each_form_what_it_takes() -> None:
    told = act(controller(), "models")["models"]
    html = told["list"]
    for words in (
        "Jet-Nemotron 2B", "NVIDIA, research and evaluation only", "Apache-2.0", "3.9 GB", "1.7 GB",
        "tok/s", "runs now",
        "3.9 GB to download and 1.2 GB of disk", "Download and use: Jet-Nemotron 4B in int8",
    ):  # fmt: skip
        assert words in html, words
    assert "{" not in html and "$" not in html
    assert told["suggestion"] == "This computer can run Jet-Nemotron 2B in int8, at about 8 words a second."
    assert told["stage"] == "idle" and not told["active"]


def test_what_cannot_be_done_is_said_and_nothing_changes() -> None:
    page = controller()
    reply = act(page, "use_model", id=f"{STORY_MODEL}:stored")
    assert reply["error"] == "Story model runs already."
    assert "not in the list" in act(page, "use_model", id="<script>")["error"]
    assert "whole path" in act(page, "add_model_folder", folder="../x")["error"]
    assert "must be" in act(page, "use_model", id=3)["error"] or act(page, "use_model", id=3)["error"]
    assert act(page, "cancel_model")["models"]["stage"] == "idle"


def test_every_reply_tells_how_often_the_model_was_changed() -> None:
    page = controller()
    assert act(page, "sync")["modelChanges"] == 0
    assert page._models._switch is not None
    page._models._switch.changes += 1
    assert act(page, "sync")["modelChanges"] == 1


def test_a_story_that_a_change_has_ended_says_so() -> None:
    said = "The model was changed to Jet-Nemotron 2B in int4 while it wrote. What is written is kept."
    stats = RequestStats(phase="done", finish_reason="model_changed", error=said)
    state = GenerationState(stats, characters=12)
    reply = finish_messages.end_reply(state, Command("continue", None), Document())  # type: ignore[arg-type]
    assert reply == {"say": said}
    assert format.status(stats) == "The model was changed"


def test_after_a_change_the_page_knows_the_new_model(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = ModelHolder(lambda config: make_engine(FakeRunner())).handle(BASE)
    page = PageController(handle)
    warned: list[str] = []
    monkeypatch.setattr(gr, "Warning", lambda message, **_: warned.append(message))
    asyncio.run(page._generation.load())
    first = page._generation._described
    assert page._generation.info is not None
    handle.switch(LocalConfig("other", "cpu"), False, "changed")
    assert page._generation.info is None, "what is known is of the old one"
    asyncio.run(page._generation.load())
    assert page._generation._described is handle.engine() is not first
    assert page._generation.info is not None
    handle.holder.close()
