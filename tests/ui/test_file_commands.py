"""Test files in and out by the page's commands: a look first, writing in a thread, and progress."""

from __future__ import annotations

import base64
import json
import threading
from typing import Any

import pytest

from jet.files.progress import Progress
from jet.files.reading import Imported, read_all
from jet.files.writing import Written
from jet.story.document import Document
from jet.ui import file_commands
from tests.files.test_foreign import CARD, WORLD
from tests.ui.stand_in import StandInSource
from tests.ui.test_handlers import Tab, run_in_tab


def packed(data: bytes | str) -> str:
    """Return bytes as the page sends them: in base64."""
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def test_a_file_is_looked_into_before_it_is_opened(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        tab.text = "Mine"
        card = packed(json.dumps({"spec": "chara_card_v2", "data": CARD | {"tags": ["sea"]}}))
        (found,) = (await tab.act("inspect", name="mira.json", data=card))["inspected"]
        assert found["kind"] == "character card"
        assert found["title"] == "Mira"
        assert found["brings"] == ["6 words", "memory"]
        assert found["losses"] == ["its tags", "who {{user}} is: “You” stands there now"]
        assert found["asks"] and found["hasGuidance"] and not found["onlyGuidance"]
        assert tab.text == "Mine"
        (bad,) = (await tab.act("inspect", name="x.pdf", data=packed(b"%PDF")))["inspected"]
        assert bad == {"name": "x.pdf", "refused": bad["refused"]}
        assert "DOCX" in bad["refused"]
        reply = await tab.act("inspect", name="x.txt", data="!")
        assert "did not arrive whole" in reply["error"]

    run_in_tab(source, story)


def test_an_encoding_is_offered_and_can_be_chosen(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        text = "Старый смотритель маяка открыл дверь и увидел море."
        data = packed(text.encode("cp1251"))
        (found,) = (await tab.act("inspect", name="a.txt", data=data))["inspected"]
        assert found["encodings"][0]["name"] == "cp1251"
        assert "koi8_r" in [other["name"] for other in found["encodings"]]
        await tab.act("import_file", name="a.txt", data=data, encoding="koi8_r")
        assert tab.text == text.encode("cp1251").decode("koi8_r")
        reply = await tab.act("import_file", name="a.txt", data=data, encoding="rot13")
        assert "not read as" in reply["error"]

    run_in_tab(source, story)


def test_a_lorebook_is_added_as_one_step(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        tab.text = "Mine"
        lorebook = packed(json.dumps({"entries": {"0": WORLD, "1": WORLD | {"key": ["pier"]}}}))
        for said in ("Added to this story: 2 lorebook entries.", "Added to this story: nothing new."):
            reply = await tab.act("add_guidance", name="w.json", data=lorebook)
            assert reply["say"] == said
            assert "jet-lore" in reply["html"]
        assert tab.text == "Mine"
        many = packed(json.dumps({"entries": [WORLD | {"content": f"{n}"} for n in range(500)]}))
        assert (
            "more than a story can have" in (await tab.act("add_guidance", name="m.json", data=many))["error"]
        )
        reply = await tab.act("undo")
        assert reply["say"].startswith("Memory, note and lorebook")

    run_in_tab(source, story)


def test_all_stories_go_out_and_several_come_in(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        tab.text = "One."
        await tab.act("set_title", text="First")
        await tab.act("set_author", text="Ida")
        copy = (await tab.act("autosave"))["kept"]["copy"]
        stories = [
            {"copy": copy, "draft": "One, and more.", "title": "First"},
            {"copy": "damaged", "draft": "Two.", "title": "Second"},
            {"copy": None, "draft": "Three.", "title": ""},
        ]
        download = (await finished(tab, await tab.act("export_all", stories=stories)))["download"]
        assert (download["name"], download["type"]) == ("stories.zip", "application/zip")
        found = [
            one.document
            for one in read_all("a.zip", base64.b64decode(download["data"]))
            if isinstance(one, Imported)
        ]
        assert [(one.title, one.text) for one in found] == [
            ("First", "One, and more."),
            ("Second", "Two."),
            ("", "Three."),
        ]
        assert found[0].author == "Ida"
        arrived = (await tab.act("unpack", name="a.zip", data=download["data"]))["arrived"]
        assert [one["text"] for one in arrived] == ["One, and more.", "Two.", "Three."]
        assert all('"jet-stories"' in one["copy"] for one in arrived)
        assert tab.text == "One."
        assert "From 1 to" in (await tab.act("export_all", stories=[]))["error"]

    run_in_tab(source, story)


async def finished(tab: Tab, reply: dict[str, Any]) -> dict[str, Any]:
    """Return the reply that has the file, once the export has finished."""
    while "exporting" in reply:
        reply = await tab.act("export_status")
    return reply


def test_a_long_book_is_written_off_the_event_loop_with_progress(
    source: StandInSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, threads = threading.Event(), []

    def slow(document: Document, ending: str, progress: Progress) -> Written:
        threads.append(threading.current_thread())
        progress(0.25)
        assert go_on.wait(30)
        return Written("x.epub", b"book", "application/epub+zip")

    async def story(tab: Tab) -> None:
        tab.text = "A"
        monkeypatch.setattr(file_commands, "write", slow)
        reply = await tab.act("export", **{"as": "epub"})
        assert reply["exporting"] == {"name": "EPUB", "done": 0.25}
        tab.text = "A and on"  # the page goes on meanwhile
        assert "error" not in await tab.act("sync")
        assert (await tab.act("export_status"))["exporting"]["done"] == 0.25
        go_on.set()
        reply = await finished(tab, await tab.act("export_status"))
        assert base64.b64decode(reply["download"]["data"]) == b"book"
        assert threads == [thread for thread in threads if thread is not threading.main_thread()]
        assert "Nothing is being saved" in (await tab.act("export_status"))["error"]

    run_in_tab(source, story)


def test_a_book_that_cannot_be_written_is_said(
    source: StandInSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(tab: Tab) -> None:
        from jet.files import docx_writer
        from jet.story.errors import StoryFileError

        def missing() -> Any:
            raise StoryFileError("DOCX files need the package python-docx, which is not installed here.")

        monkeypatch.setattr(docx_writer, "library", missing)
        tab.text = "A"
        assert "python-docx" in (await tab.act("export", **{"as": "docx"}))["error"]
        assert "not saved as" in (await tab.act("export", **{"as": "exe"}))["error"]

    run_in_tab(source, story)
