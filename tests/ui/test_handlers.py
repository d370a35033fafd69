"""Test commands and generation without a browser, by the messages that are exchanged with it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from jet.api import SamplingParams
from jet.story.context import Prompt
from jet.story.document import Document
from jet.ui.deltas import DELTA_MIN_CHARACTERS
from jet.ui.generation import GenerationService
from jet.ui.handlers import PageController
from jet.ui.layout import STOP_LABEL
from jet.ui.outputs import OUTPUTS, OutputCache
from jet.ui.presets import PRESETS
from tests.ui.served import wait_until
from tests.ui.stand_in import StandInSource

CONTROLS = (40, 0.8, 0.95, 0, 0.05, 1.05, "")
SETTINGS = ("max_new_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")


class Tab:
    """A tab of the page: the text in its editor, its last reply, and the HTML that it has received."""

    def __init__(self, controller: PageController, session: str = "one") -> None:
        self.text = ""
        self.reply: dict[str, Any] = {}
        self.panel = ""
        self.ways = ""
        self.live: list[str] = []
        self._controller = controller
        self.request: Any = SimpleNamespace(session_hash=session)

    async def act(self, do: str, **fields: object) -> dict[str, Any]:
        order = {"type": do, **({} if "edit" in fields else self.sent()), **fields}
        self.reply = json.loads(await self._controller.run_command(self.request, json.dumps(order)))
        self._take(self.reply.get("story"))
        return self.reply

    async def write(
        self, do: str = "continue", controls: tuple[object, ...] = CONTROLS, **fields: object
    ) -> str:
        settings = dict(zip(SETTINGS, controls, strict=True))
        order = {"type": do, "settings": settings, **self.sent(), **fields}
        async for updates in self._controller.generate(self.request, json.dumps(order)):
            story, panel, _, _, ways, live, wrote = updates
            self._take(story)
            self.live += [live] if live else []
            self.panel = panel if isinstance(panel, str) else self.panel
            self.ways = ways if isinstance(ways, str) else self.ways
            if wrote:
                self.reply = json.loads(wrote)
        return self.text

    def sent(self) -> dict[str, object]:
        """Return the fields with the text that the browser sends; no fields if the server has the text."""
        return {} if self.reply.get("same") else {"story": self.text}

    def _take(self, story: object) -> None:
        self.text = story if isinstance(story, str) else self.text


def run_in_tab(source: StandInSource, story: Callable[[Tab], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine in a new tab."""

    async def play() -> None:
        await asyncio.wait_for(story(Tab(PageController(source))), timeout=20)

    asyncio.run(play())


def words(letter: str, number: int) -> str:
    """Return the words that the stand-in generates."""
    return "".join(f" {letter}{index}" for index in range(number))


def test_undo_and_redo_cover_the_writers_edits_and_the_models_words(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        tab.text = "A"
        await tab.write()
        written = "A" + words("A", 40)
        assert tab.text == written
        assert (tab.reply["undo"], tab.reply["redo"]) == (True, False)
        tab.text += " and my own end."
        await tab.act("undo")
        assert tab.text == written
        await tab.act("undo")
        assert tab.text == "A"
        await tab.act("redo")
        await tab.act("redo")
        assert tab.text == written + " and my own end."

    run_in_tab(source, story)


def test_retry_is_a_branch_beside_and_the_old_one_stays(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        tab.text = "A"
        await tab.write()
        await tab.write("retry", (5, *CONTROLS[1:]), tab="branches")
        assert tab.text == "A" + words("A", 5)
        assert tab.reply["html"]["jet-tree"].count("<li") == 2
        await tab.act("undo")
        assert tab.text == "A" + words("A", 40)

    run_in_tab(source, story)


def test_going_on_from_the_cursor_keeps_what_stands_behind(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        tab.text = "\N{DRAGON}A end"
        await tab.write("continue_at", (2, *CONTROLS[1:]), at=3)  # the dragon has two of the browser's units
        assert tab.text == "\N{DRAGON}A \N{DRAGON}0 \N{DRAGON}1 end"

    run_in_tab(source, story)


def test_three_variants_are_written_at_once_and_one_is_picked(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        tab.text = "A"
        await tab.write("variants", (3, *CONTROLS[1:]), tab="branches")
        assert tab.text == "A"  # the page keeps its branch
        assert tab.ways.count("A0 A1 A2") == 3
        assert tab.reply["html"]["jet-tree"].count("<li") == 4
        await tab.act("select_branch", branch=2)
        assert tab.text == "A A0 A1 A2"

    run_in_tab(source, story)


def test_another_word_goes_on_from_there(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        tab.text = "A"
        await tab.write(controls=(5, *CONTROLS[1:]), alternatives=True)
        shown = await tab.act("alternatives", at=5)  # within " A1"
        assert (shown["word"]["start"], shown["word"]["end"]) == (4, 7)
        assert "<span>else1<" in shown["word"]["html"] and "20.0 %" in shown["word"]["html"]
        await tab.write("replace_token", (1, *CONTROLS[1:]), at=5, choice=1)
        assert tab.text == "A A0 else1 A0"
        assert "No other words" in (await tab.act("alternatives", at=0))["say"]

    run_in_tab(source, story)


def test_without_alternatives_none_are_kept(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        tab.text = "A"
        await tab.write()
        assert "No other words" in (await tab.act("alternatives", at=5))["say"]

    run_in_tab(source, story)


def test_a_stop_string_ends_the_story_before_it(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        tab.text = "A"
        await tab.write(stops=["A7", "A9"])
        assert tab.text == "A" + words("A", 7) + " "
        assert "Stop string found" in tab.panel

    run_in_tab(source, story)
    wait_until(lambda: not source.stand_in.live)


def test_highlights_give_the_author_of_words_in_utf16_units(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        tab.text = "\N{DRAGON} A"
        await tab.write(controls=(1, *CONTROLS[1:]), highlight="authorship", alternatives=True)
        assert tab.text == "\N{DRAGON} A \N{DRAGON}0"
        assert tab.reply["marks"] == [4, 8, 0]
        assert (await tab.act("sync", highlight="plain"))["marks"] == []
        assert (await tab.act("sync", highlight="confidence"))["marks"] == []  # it was sure of the first

    run_in_tab(source, story)


def test_guidance_reaches_the_model_and_the_context_view_shows_it(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        tab.text = "A Rose"
        lore = {
            "title": "",
            "keywords": "rose",
            "content": "Rose is a fox.",
            "enabled": True,
            "constant": False,
        }
        reply = await tab.act(
            "set_guidance",
            memory="Memory first.",
            note="",
            depth=3,
            unit="lines",
            lore=[lore],
            tab="guidance",
        )
        assert "error" not in reply
        await tab.write(controls=(1, *CONTROLS[1:]), tab="guidance")
        assert tab.text == "A Rose M0"  # the stand-in repeats the first letter of what it sees
        seen = tab.reply["html"]["jet-context"]
        assert "Memory first." in seen and "Rose is a fox." in seen

    run_in_tab(source, story)


def test_a_command_builds_the_prompt_once_for_the_panel_and_the_context_view(
    source: StandInSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds: list[str] = []
    build_prompt = GenerationService.build_prompt

    async def counted(self: GenerationService, document: Document, user: str = "") -> Prompt | None:
        builds.append(document.text)
        return await build_prompt(self, document, user)

    monkeypatch.setattr(GenerationService, "build_prompt", counted)

    async def story(tab: Tab) -> None:
        tab.text = "A Rose"
        await tab.write(controls=(1, *CONTROLS[1:]))  # loads the model
        builds.clear()
        tab.text = "A Rose is"
        reply = await tab.act("sync", tab="guidance")
        assert "A Rose is" in reply["html"]["jet-context"] and reply["panel"]
        assert builds == ["A Rose is"]

    run_in_tab(source, story)


@pytest.mark.parametrize("ending", ["txt", "md", "json", "docx", "epub", "html"])
def test_what_is_exported_can_be_imported(source: StandInSource, ending: str) -> None:
    async def story(tab: Tab) -> None:
        tab.text = "A <b>story</b>"
        await tab.act("set_title", text="The Tower")
        await tab.write(controls=(3, *CONTROLS[1:]))
        written = tab.text
        reply = await tab.act("export", **{"as": ending})
        while "exporting" in reply:
            reply = await tab.act("export_status")
        download = reply["download"]
        assert download["name"] == f"The_Tower.{ending}"
        await tab.act("new_story")
        assert tab.text == ""
        await tab.act("import_file", name=download["name"], data=download["data"])
        assert tab.text == written
        await tab.act("undo")
        assert tab.text == written  # another story is no step of this one

    run_in_tab(source, story)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.pdf", b"x", "Stories are read from .docx, .epub"),
        ("a.json", b"{", "JSON"),
        ("a.txt", b"\xff", "save it as UTF-8 in your editor"),
    ],
)
def test_garbage_is_refused_in_words_and_the_story_stays(
    source: StandInSource, name: str, data: bytes, message: str
) -> None:
    async def story(tab: Tab) -> None:
        tab.text = "Mine"
        reply = await tab.act("import_file", name=name, data=base64.b64encode(data).decode())
        assert message in reply["error"]
        assert tab.text == "Mine"

    run_in_tab(source, story)


def test_what_the_browser_keeps_brings_everything_back(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        tab.text = "A"
        await tab.write(controls=(3, *CONTROLS[1:]))
        kept = (await tab.act("autosave"))["kept"]
        assert kept["dropped"] == []
        other = Tab(tab._controller, "another")
        await other.act("restore", copy=kept["copy"], draft=tab.text + " typed since", highlight="authorship")
        assert other.text == "A A0 A1 A2 typed since"
        assert other.reply["marks"] == [1, 10, 0]
        await other.act("restore", copy="garbage", draft="only text")
        assert other.text == "only text" and "only the text" in other.reply["error"].lower()

    run_in_tab(source, story)


def test_a_story_that_is_not_in_memory_is_asked_for_again(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        tab.text = "A"
        assert (await tab.act("undo", known=True))["lost"] is True
        await tab.write(known=True)
        assert tab.reply["lost"] is True and tab.text == "A"

    run_in_tab(source, story)


def test_presets_set_the_sliders_but_neither_seed_nor_length(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        for name, sampling in PRESETS.items():
            chosen = (await tab.act("apply_preset", name=name))["controls"]
            assert chosen["temperature"] == sampling.temperature
            assert not {"max_new_tokens", "seed"} & set(chosen)
            assert set(chosen) < set(asdict(SamplingParams()))

    run_in_tab(source, story)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"temperature": -1}, "temperature"),
        ({"seed": 3}, "no setting 'seed'"),
        ({"colour": 1}, "no setting 'colour'"),
    ],
)
def test_a_preset_that_makes_no_sense_is_refused(
    source: StandInSource, settings: dict[str, object], message: str
) -> None:
    async def story(tab: Tab) -> None:
        assert message in (await tab.act("apply_own_preset", settings=settings))["error"]
        chosen = (await tab.act("apply_own_preset", settings={"temperature": 1.5, "top_k": 7.0}))["controls"]
        assert (chosen["temperature"], chosen["top_k"], chosen["top_p"]) == (1.5, 7, SamplingParams().top_p)

    run_in_tab(source, story)


@pytest.mark.parametrize(
    "order", ["", "[]", "{}", '{"type": 1}', '{"type": "dance"}', '{"type": "select_branch"}']
)
def test_invalid_commands_change_nothing(source: StandInSource, order: str) -> None:
    async def story(tab: Tab) -> None:
        assert json.loads(await tab._controller.run_command(tab.request, order))["error"]

    run_in_tab(source, story)


def test_nothing_else_changes_a_story_that_is_being_written(source: StandInSource) -> None:
    source.stand_in.tokens_per_second = 50

    async def story(tab: Tab) -> None:
        tab.text = "A"
        writing = asyncio.create_task(tab.write())
        await asyncio.sleep(0.3)
        other = Tab(tab._controller)
        other.text = "typed meanwhile"
        assert "still writing" in (await other.act("undo"))["error"]
        await tab._controller.stop(tab.request)
        text = await writing
        assert text.startswith("A A0") and "typed" not in text

    run_in_tab(source, story)


def test_a_closed_tabs_request_is_freed_and_its_story_stays_for_a_while(source: StandInSource) -> None:
    source.stand_in.tokens_per_second = 50

    async def story(tab: Tab) -> None:
        tab.text = "A"
        writing = asyncio.create_task(tab.write())
        await asyncio.sleep(0.3)
        tab._controller.disconnect(tab.request)
        await writing
        assert source.stand_in.live == []
        assert "lost" not in await tab.act("sync", known=True)

    run_in_tab(source, story)


def test_of_a_long_story_only_the_new_words_are_sent(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        tab.text = long = "A \N{DRAGON} " + "word " * (DELTA_MIN_CHARACTERS // 5)
        source.stand_in.context = 10 * DELTA_MIN_CHARACTERS
        await tab.act("sync")
        assert tab.sent() == {}
        assert await tab.write() == long  # nothing comes for the box
        added = words("A", CONTROLS[0])
        patch = tab.reply["patch"]
        place = len(long.encode("utf-16-le")) // 2
        assert patch == {"from": place, "to": place, "text": added}
        assert added[:10] in tab.live[-1] and len(tab.live[-1]) < 1000
        tab.text, tab.reply = long + added, {}
        assert (await tab.act("sync"))["same"]
        assert (await tab.act("undo"))["undo"]
        assert tab.text == long
        units = len(long.encode("utf-16-le")) // 2
        edit = {"of": units, "from": units - 1, "to": units, "text": "!"}
        tab.text = long[:-1] + "!"
        assert (await tab.act("sync", edit=edit))["same"]  # what was put together is what was meant
        assert "reload the page" in (await tab.act("sync", edit={**edit, "of": 7}))["error"]

    run_in_tab(source, story)


def test_what_cannot_be_taken_over_stays_in_the_box(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        tab.text = far_too_long = "x" * 4_000_001
        assert "4,000,000 characters" in (await tab.act("sync"))["error"]
        assert tab.text == far_too_long and tab.sent() == {"story": far_too_long}

    run_in_tab(source, story)


@pytest.mark.parametrize("length, skipped", [(1, set()), (DELTA_MIN_CHARACTERS, {"story"})])
def test_updates_leave_out_as_little_as_they_can(
    source: StandInSource, length: int, skipped: set[str]
) -> None:
    """Test that updates skip few components: Gradio rebuilds skipped ones, the main cost of an update."""

    async def story(tab: Tab) -> None:
        tab.text = "A" * length
        order = {
            "type": "continue",
            "n": 7,
            "settings": dict(zip(SETTINGS, CONTROLS, strict=True)),
            **tab.sent(),
        }
        updates = [
            dict(zip(OUTPUTS, update, strict=True))
            async for update in tab._controller.generate(tab.request, json.dumps(order))
        ]
        assert len(updates) > 2
        for update in updates[1:-1]:
            assert {name for name, value in update.items() if value == gr.skip()} == skipped
            assert update["result"] == "" and update["stop"] == STOP_LABEL
        assert json.loads(updates[-1]["result"])["n"] == 7

    run_in_tab(source, story)


def test_what_was_told_stands_but_for_the_story() -> None:
    told = OutputCache()
    first = told.update(story="A", panel="p", stop=gr.Button(interactive=True))
    second = told.update(panel=None, last_seed="7")
    assert dict(zip(OUTPUTS, first, strict=True))["story"] == "A"
    told_now = dict(zip(OUTPUTS, second, strict=True))
    assert told_now["story"] == told_now["variants"] == gr.skip()
    assert (told_now["panel"], told_now["stop"], told_now["last_seed"]) == ("p", STOP_LABEL, "7")


def test_a_story_that_is_asked_for_begins_on_a_branch_of_its_own(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        source.stand_in.chat_tokens = 7
        tab.text = "Mine"
        assert await tab.write("write_about", about=" a fox ") == words("X", CONTROLS[0])
        asked = source.stand_in.requests[-1]
        assert (asked.instruction, asked.prompt) == ("Write me a story about a fox", "")
        await tab.write()  # and it goes on as the answer to that
        assert source.stand_in.requests[-1].instruction == asked.instruction
        assert source.stand_in.requests[-1].prompt == words("X", CONTROLS[0])
        for _ in range(3):
            await tab.act("undo")
        assert tab.text == "Mine"
        tab.text = ""
        await tab.write("write_about", about=" ")
        assert "Say what the story is to be about" in tab.panel

    run_in_tab(source, story)


def test_a_stop_that_overtakes_its_command_holds_and_a_late_one_does_not(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        tab.text = "A"
        await tab._controller.stop(tab.request, json.dumps({"type": "stop", "n": 5, "known": False}))
        assert await tab.write(n=5) == "A"
        assert tab.reply["wrote"] and "Stopped" in tab.panel
        assert not source.stand_in.requests
        writing = asyncio.create_task(tab.write(n=6))
        await asyncio.sleep(0.01)
        await tab._controller.stop(tab.request, json.dumps({"type": "stop", "n": 5, "known": True}))
        assert await writing == "A" + words("A", 40)
        assert await tab.write(n=7, unwanted=True) == "A" + words("A", 40)

    run_in_tab(source, story)


def test_what_is_typed_in_steps_is_undone_in_steps(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        tab.text = "One. Two. Three"
        steps = [
            {"of": 0, "from": 0, "to": 0, "text": "One. "},
            {"of": 5, "from": 5, "to": 5, "text": "Two. "},
            {"of": 99, "from": 0, "to": 99, "text": "of another text"},
        ]
        await tab.act("sync", typed=steps)
        for left in ("One. Two. ", "One. ", ""):
            await tab.act("undo")
            assert tab.text == left

    run_in_tab(source, story)
