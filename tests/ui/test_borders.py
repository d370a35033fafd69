"""Test generation at the end of the writer's text: requests, and messages if nothing is generated."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from typing import Any

import pytest

from jet.api import RequestStats, TokenChunk, TokenLogprob, TokenLogprobs
from jet.story.alignment import Aligner
from jet.story.document import Document
from jet.story.files import to_json
from jet.story.format import lore_to_dict
from jet.story.guidance import Guidance, LoreEntry
from jet.story.pieces import ends_at_token_boundary
from tests.story.factory import MODEL, SAMPLING, fill, owners, story
from tests.ui.stand_in import StandInEngine, StandInSource, StandInStream
from tests.ui.test_handlers import CONTROLS, Tab, run_in_tab, words

SEED = (*CONTROLS[:-1], "7")


class Scripted(StandInStream):
    """A stream that generates, and ends, as the test's script says."""

    def _decode(self, interval_s: float) -> Iterator[TokenChunk]:
        engine = self._engine
        assert isinstance(engine, ScriptedEngine)
        text, reason = engine.script.pop(0)
        if reason == "stop" and self._request.min_tokens:
            text, reason = " Beyond", "length"
        stats = replace(self._stats, tokens=len(text.split()))
        if text:
            yield TokenChunk(text, (1,), stats)
        yield TokenChunk("", (), replace(stats, phase="done", finish_reason=reason))


class ScriptedEngine(StandInEngine):
    script: list[tuple[str, str]]

    def submit(self, request):  # type: ignore[no-untyped-def]
        stream = Scripted(self, request, 1)
        self.requests.append(request)
        self.live.append(stream)
        return stream


@pytest.fixture
def scripted() -> StandInSource:
    source = StandInSource()
    source.stand_in = ScriptedEngine()
    return source


def test_a_border_that_the_writer_typed_is_healed_and_one_of_the_models_is_not(source: StandInSource) -> None:
    healed = lambda: source.stand_in.requests[-1].healing  # noqa: E731

    async def play(tab: Tab) -> None:
        tab.text = "A door "
        await tab.write(controls=(3, *CONTROLS[1:]), alternatives=True)
        assert healed()
        await tab.write(controls=(3, *CONTROLS[1:]), alternatives=True)
        assert not healed()
        await tab.write("variants", (1, *CONTROLS[1:]))
        assert not healed()
        await tab.write("retry", (3, *CONTROLS[1:]), alternatives=True)
        assert not healed()
        tab.text += " "
        await tab.write(controls=(3, *CONTROLS[1:]), alternatives=True)
        assert healed()
        tab.text = tab.text[:-1]  # half of the model's last word
        await tab.write(controls=(3, *CONTROLS[1:]), alternatives=True)
        assert healed()
        at = tab.text.index("A1") + 1
        await tab.write("continue_at", (1, *CONTROLS[1:]), at=at)
        assert healed()
        at = tab.text.rindex(" A2")
        await tab.write("continue_at", (1, *CONTROLS[1:]), at=at)
        assert not healed()
        await tab.write("replace_token", (1, *CONTROLS[1:]), at=tab.text.index("A0") + 1, choice=1)
        assert not healed()

    run_in_tab(source, play)


def test_what_ends_in_a_token() -> None:
    document = Document.from_text("Once")
    assert not ends_at_token_boundary(document.tree.branch().pieces)
    assert not ends_at_token_boundary(())
    fill(document.start_continuation(MODEL, SAMPLING), " upon", " a", " time")
    assert ends_at_token_boundary(document.tree.branch().pieces)
    for text, whole in (("Once upon a", True), ("Once upon a ", False), ("Once up", False), ("Once", False)):
        document.edit(text)
        assert ends_at_token_boundary(document.tree.branch().pieces) == whole
    unknown = story("Once", " upon")
    with unknown.start_continuation(MODEL, SAMPLING) as continuation:
        continuation.append(" a ti")
        continuation.finish("stop_string")
    assert not ends_at_token_boundary(unknown.tree.branch().pieces)


def test_a_word_that_is_completed_has_two_authors_and_its_token_stands_where_it_is_seen() -> None:
    document = Document.from_text("the old lighth")
    stats = RequestStats(phase="decode")

    def detail(id: int, text: str) -> TokenLogprobs:
        return TokenLogprobs(
            TokenLogprob(id, text, -0.5), (TokenLogprob(id, text, -0.5), TokenLogprob(9, "earted", -2))
        )

    with document.start_continuation(MODEL, SAMPLING) as continuation:
        continuation.add_chunk(TokenChunk("ouse", (5,), stats, (detail(5, "ouse"),)))
        continuation.add_chunk(TokenChunk(" stood", (6,), stats, (detail(6, " stood"),)))
        continuation.finish("length")
    assert document.text == "the old lighthouse stood"
    assert owners(document) == "w" * 14 + "m" * 10
    assert [(t.start, t.end, t.token.id) for t in document.tokens()] == [(14, 18, 5), (18, 24, 6)]
    at = document.replace_token(15, 1)
    assert (document.text, at) == ("the old lighthearted", 20)
    assert Aligner().finish() == []


def test_the_editor_keeps_typed_blanks_and_the_context_view_shows_what_is_read(source: StandInSource) -> None:
    async def play(tab: Tab) -> None:
        tab.text = "A"
        await tab.write(controls=(1, *CONTROLS[1:]))
        tab.text = "A door\t\u00a0"
        reply = await tab.act("sync", tab="guidance")
        assert "A door </pre>" in reply["html"]["jet-context"]
        await tab.write(controls=(1, *CONTROLS[1:]), tab="guidance")
        assert tab.text.startswith("A door\t\u00a0 A0")
        assert source.stand_in.requests[-1].prompt == "A door\t\u00a0"  # the engine reads it in its own way

    run_in_tab(source, play)


def test_beyond_the_end_of_a_closed_story_in_one_click(scripted: StandInSource) -> None:
    engine = scripted.stand_in
    assert isinstance(engine, ScriptedEngine)
    engine.script = [(" The end.", "stop"), ("", "stop"), ("", "stop")]

    async def play(tab: Tab) -> None:
        tab.text = "A"
        await tab.write()
        assert "offer" not in tab.reply and "say" not in tab.reply
        await tab.write()
        assert tab.reply["say"] == "The model has ended this story. Continue anyway?"
        again = tab.reply["offer"]["write"]
        assert again == {"type": "continue", "beyond": True}
        await tab.write(**again)
        assert tab.text == "A The end. Beyond"
        assert engine.requests[-1].min_tokens > 0 and engine.requests[0].min_tokens == 0
        assert "offer" not in tab.reply

    run_in_tab(scripted, play)


@pytest.mark.parametrize(
    ("do", "fields", "again"),
    [
        ("continue_at", {"at": 3}, {"type": "continue_at", "at": 3, "beyond": True}),
        ("variants", {}, {"type": "variants", "beyond": True}),
        ("continue", {}, {"type": "continue", "beyond": True}),
    ],
)
def test_beyond_at_every_place(
    scripted: StandInSource, do: str, fields: dict[str, int], again: dict[str, object]
) -> None:
    engine = scripted.stand_in
    assert isinstance(engine, ScriptedEngine)
    engine.script = [("", "stop")] * 6

    async def play(tab: Tab) -> None:
        tab.text = "\N{DRAGON}A tale"
        await tab.write(do, **fields)
        assert tab.reply["offer"]["write"] == again
        await tab.write(**again)
        assert "offer" not in tab.reply

    run_in_tab(scripted, play)


@pytest.mark.parametrize("reason", ["stop", "length", "context", "aborted", "deadline"])
def test_where_nothing_came_it_is_said(scripted: StandInSource, reason: str) -> None:
    engine = scripted.stand_in
    assert isinstance(engine, ScriptedEngine)
    engine.script = [("", reason)]

    async def play(tab: Tab) -> None:
        tab.text = "A tale"
        await tab.write()
        assert tab.text == "A tale"
        assert len(tab.reply["say"].split()) > 3

    run_in_tab(scripted, play)


def test_a_stop_at_the_very_beginning_does_not_end_it_again(scripted: StandInSource) -> None:
    engine = scripted.stand_in
    assert isinstance(engine, ScriptedEngine)
    engine.script = [(" went. And", "length"), (". And then. No", "length"), ("\nThe End\nmore", "length")]

    async def play(tab: Tab) -> None:
        tab.text = "A"
        await tab.write(stops=["."])
        assert tab.text == "A went"
        await tab.write(stops=["."])
        assert tab.text == "A went. And then"
        await tab.write(stops=[r"\nThe", r"\nmore"])
        assert tab.text == "A went. And then\nThe End"

    run_in_tab(scripted, play)


def test_retry_with_a_seed_draws_another_and_says_so(source: StandInSource) -> None:
    seeds = lambda: [request.sampling.seed for request in source.stand_in.requests]  # noqa: E731

    async def play(tab: Tab) -> None:
        tab.text = "A"
        await tab.write(controls=SEED)
        await tab.write("retry", SEED)
        assert f"another seed, {seeds()[-1]}" in tab.reply["say"]
        await tab.write("retry", SEED)
        assert "another seed" in tab.reply["say"]
        assert len(set(seeds())) == 3 and seeds()[0] == 7
        await tab.write("retry", (*CONTROLS[:-1], "8"))  # one that was not used here
        assert seeds()[-1] == 8 and "say" not in tab.reply
        await tab.write("variants", SEED)
        await tab.write("variants", SEED)
        assert "another seed" in tab.reply["say"]
        assert len(set(seeds()[-6:])) == 6
        await tab.write("variants", (*CONTROLS[:-1], "5"))  # and 6 and 7
        assert "another seed" in tab.reply["say"]
        assert len(set(seeds()[-9:])) == 9

    run_in_tab(source, play)


def test_retry_says_where_the_writers_sentences_are(source: StandInSource) -> None:
    async def play(tab: Tab) -> None:
        tab.text = "A"
        await tab.write(controls=(3, *CONTROLS[1:]))
        tab.text += " And so I wept."
        await tab.write("retry", (2, *CONTROLS[1:]))
        assert tab.text == "A" + words("A", 2)
        assert tab.reply["say"] == "Your last sentence is on “Version 1”."
        await tab.act("select_branch", branch=0)
        assert tab.text.endswith(" And so I wept.")
        await tab.act("rename", branch=0, name="Tears")
        tab.reply = {}  # so that the text is sent
        tab.text += " Twice! “Really?”"
        await tab.write("retry", (2, *CONTROLS[1:]))
        assert tab.reply["say"] == "Your last 3 sentences are on “Tears”."
        await tab.write("retry", (2, *CONTROLS[1:]))
        assert "say" not in tab.reply

    run_in_tab(source, play)


def test_another_word_says_it_too_and_nothing_where_nothing_is_lost(source: StandInSource) -> None:
    async def play(tab: Tab) -> None:
        tab.text = "A"
        await tab.write(controls=(3, *CONTROLS[1:]), alternatives=True)
        tab.text += " I wept."
        await tab.write("replace_token", (1, *CONTROLS[1:]), at=2, choice=1)
        assert tab.reply["say"] == "Your last sentence is on “Version 1”."
        tab.text += "  \n"
        await tab.write("retry", (1, *CONTROLS[1:]))
        assert "say" not in tab.reply

    run_in_tab(source, play)


def test_retry_is_off_where_there_is_nothing_to_retry(source: StandInSource) -> None:
    async def play(tab: Tab) -> None:
        tab.text = "A"
        assert (await tab.act("sync"))["retry"] is False
        await tab.write(controls=(1, *CONTROLS[1:]))
        assert tab.reply["retry"] is True
        assert (await tab.act("undo"))["retry"] is False
        assert (await tab.act("redo"))["retry"] is True
        assert (await tab.act("new_story"))["retry"] is False

    run_in_tab(source, play)


LORE = LoreEntry(
    "Doe",
    ("Doe, John", 'say "hi"', "fox"),
    "\nA man.",
    case_sensitive=True,
    whole_word=False,
    order=7,
    scan_depth=50,
    scan_unit="paragraphs",
    secondary_keywords=("night",),
    anti_keywords=("day",),
)
GUIDANCE = {"note": "", "depth": 3, "unit": "lines", "about": ""}


def text_of(reply: dict[str, Any]) -> str:
    """Return the text of the file that a reply offers for download."""
    return base64.b64decode(reply["download"]["data"]).decode()


def test_the_form_keeps_what_it_does_not_show(source: StandInSource) -> None:
    async def play(tab: Tab) -> None:
        row = {"kept": lore_to_dict(LORE), "keywords": '"Doe, John", say "hi", fox', "content": LORE.content}
        row |= {"enabled": True, "constant": False}
        fresh = {"kept": {}, "keywords": "rose", "content": "Red.", "enabled": True, "constant": False}
        reply = await tab.act("set_guidance", memory="Other.", lore=[row, fresh], **GUIDANCE)
        assert "error" not in reply
        file = await tab.act("export", **{"as": "json"})
        reply = await tab.act("restore", copy=text_of(file), draft=None)
        assert 'value=""Doe, John", say "hi", fox"' in unescape(reply["html"]["jet-lore"])
        row["keywords"] = '"Doe, John", wolf'
        await tab.act("set_guidance", memory="Other.", lore=[row, fresh], **GUIDANCE)
        await tab.write(controls=(1, *CONTROLS[1:]), tab="guidance")
        kept = text_of(await tab.act("export", **{"as": "json"}))
        document = Document(
            guidance=Guidance("Other.", lore=(replace(LORE, keywords=("Doe, John", "wolf")),))
        )
        assert to_json(document).split('"lore":[')[1].split("}")[0] in kept
        assert '"order":8' in kept  # the new entry stands behind the one that was there

    run_in_tab(source, play)


def test_stop_strings_with_line_breaks_stay_what_they_are(source: StandInSource) -> None:
    async def play(tab: Tab) -> None:
        file = to_json(Document(stops=("\n\n", "\nThe End", r"a\nb", "C:\\dir")))
        reply = await tab.act("restore", copy=file, draft=None)
        assert reply["stops"] == [r"\n\n", r"\nThe End", r"a\\nb", r"C:\dir"]
        tab.text = "A"
        await tab.write(controls=(1, *CONTROLS[1:]), stops=reply["stops"])
        kept = text_of(await tab.act("export", **{"as": "json"}))
        assert r'"stops":["\n\n","\nThe End","a\\nb","C:\\dir"]' in kept

    run_in_tab(source, play)


def test_settings_that_no_control_shows_stay(source: StandInSource) -> None:
    async def play(tab: Tab) -> None:
        document = Document(sampling=replace(SAMPLING, dry_base=2.5, xtc_threshold=0.2))
        await tab.act("restore", copy=to_json(document), draft=None)
        tab.text = "A"
        await tab.write(controls=CONTROLS)  # which names neither
        sampling = source.stand_in.requests[-1].sampling
        assert (sampling.dry_base, sampling.xtc_threshold) == (2.5, 0.2)

    run_in_tab(source, play)
