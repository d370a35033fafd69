from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jet.story.context import ContextBuilder, Prompt, PromptError, _split, _start_of_last, is_triggered
from jet.story.errors import StoryError
from jet.story.guidance import AuthorsNote, Guidance, LoreEntry
from tests.story.factory import texts


def words(text: str) -> int:
    """Count words and other characters as tokens; the counts of lines add up."""
    return len(re.findall(r"\w+|\W", text))


STORY = "".join(f"Line {n} of the story tells what happened next. And more of it.\n" for n in range(400))
NOTE = AuthorsNote("Be calm.", depth=2)
BUILDER = ContextBuilder(words)

lines = st.lists(
    st.sampled_from(["One. ", "Two words", "\n", "\n\n", "语。", " \n", "x" * 30]), max_size=30
).map("".join)
entries = st.builds(
    LoreEntry,
    title=texts,
    keywords=st.lists(st.sampled_from(["two", "One", "x", ""]), max_size=2).map(tuple),
    content=texts,
    enabled=st.booleans(),
    constant=st.booleans(),
    order=st.integers(0, 3),
    scan_depth=st.integers(1, 30),
    scan_unit=st.sampled_from(["characters", "paragraphs"]),
)
guidances = st.builds(
    Guidance,
    memory=texts,
    note=st.builds(
        AuthorsNote, text=texts, depth=st.integers(1, 5), unit=st.sampled_from(["lines", "paragraphs"])
    ),
    lore=st.lists(entries, max_size=4).map(tuple),
)


def kinds(prompt: Prompt) -> list[str]:
    return [part.kind for part in prompt.parts]


@given(lines, guidances, st.integers(1, 200), st.integers(0, 100))
@settings(deadline=None)
def test_every_prompt_keeps_its_promises(story: str, guidance: Guidance, context: int, room: int) -> None:
    try:
        prompt = BUILDER.build(story, guidance, context, room)
    except PromptError:
        assert context <= room or guidance.memory.strip()
        return
    assert prompt.tokens == sum(part.tokens for part in prompt.parts) <= prompt.budget == context - room
    assert words(prompt.text) <= prompt.tokens
    assert all(part.tokens == words(part.text) for part in prompt.parts)
    told = "".join(part.text for part in prompt.parts if part.kind == "story")
    assert story.endswith(told)
    assert told or not story
    for part in prompt.parts:
        if part.start is not None:
            assert story[part.start : part.start + len(part.text)] == part.text
    cut = [left for left in prompt.omitted if left.kind == "story"]
    assert bool(cut) == (told != story)
    if story:
        assert kinds(prompt)[-1] == "story"  # so that the model goes on from the story's own last words
    assert [kind for kind in kinds(prompt) if kind != "note"] == sorted(
        (kind for kind in kinds(prompt) if kind != "note"), key=["memory", "lore", "story"].index
    )


def test_order_and_depth() -> None:
    lore = LoreEntry(title="Tower", keywords=("tower",), content="The tower is tall.")
    guidance = Guidance("A tale.", NOTE, (lore,))
    prompt = BUILDER.build("He saw it.\nThe tower!\nHe went\nin and", guidance, 200, 50)
    assert prompt.text == (
        "A tale.\n\nThe tower is tall.\n\nHe saw it.\nThe tower!\n[Author's note: Be calm.]\nHe went\nin and"
    )
    assert kinds(prompt) == ["memory", "lore", "story", "note", "story"]
    assert [part.title for part in prompt.parts][:2] == ["Memory", "Tower"]
    assert prompt.omitted == ()


def test_nothing_but_the_story() -> None:
    assert BUILDER.build("Once", Guidance(), 100, 10).text == "Once"
    assert BUILDER.build("", Guidance(), 100, 10).parts == ()
    assert BUILDER.build("", Guidance(note=NOTE), 100, 10).text == "[Author's note: Be calm.]\n"
    assert BUILDER.build("Once", Guidance(memory=" \n", note=AuthorsNote("  ")), 100, 10).text == "Once"


@pytest.mark.parametrize(
    ("text", "depth", "unit", "below"),
    [
        ("a\nb\nc", 1, "lines", "c"),
        ("a\nb\nc\n", 2, "lines", "b\nc\n"),
        ("a\n\n \nb\n\n", 1, "lines", "b\n\n"),
        ("a\n\n \nb", 2, "lines", "a\n\n \nb"),
        ("a\nb", 9, "lines", "a\nb"),
        ("a\n\nb\nc\n\nd\ne", 1, "paragraphs", "d\ne"),
        ("a\n\nb\nc\n\nd\ne\n", 2, "paragraphs", "b\nc\n\nd\ne\n"),
        ("a\nx\n \nb", 2, "paragraphs", "a\nx\n \nb"),
        ("\n\n", 1, "lines", "\n\n"),
        ("", 1, "paragraphs", ""),
    ],
)
def test_depth_counts_lines_or_paragraphs(text: str, depth: int, unit: str, below: str) -> None:
    assert text[_start_of_last(text, depth, unit) :] == below


def test_cut_stays_put_while_the_story_grows_and_uses_the_context() -> None:
    context, room = 1_000, 100
    starts, story = [], ""
    for n in range(400):
        story += f"Line {n} of the story tells what happened next. And more of it.\n"
        prompt = BUILDER.build(story, Guidance("Memory.", NOTE), context, room)
        start = next(part.start for part in prompt.parts if part.start is not None)
        starts.append(start)
        if start:
            assert prompt.tokens > (context - room) - context // 8 - 60
            assert story[start - 1] == "\n"
    assert starts == sorted(starts)
    assert len(set(starts)) < 400 * 27 / (context / 8) + 2


def test_cut_does_not_move_when_lore_comes_and_goes_within_a_step() -> None:
    story = STORY + "The tower."
    lore = LoreEntry(keywords=("tower",), content="Tall.")
    cuts = {
        BUILDER.build(text, Guidance(lore=(lore,)), 1_000, 100).parts[-1].start
        for text in (story, story[:-6])
    }
    assert len(cuts) == 1


def test_one_endless_line_is_cut_between_sentences() -> None:
    story = "A sentence of some length stands here. " * 2_000
    prompt = BUILDER.build(story, Guidance(), 2_000, 100)
    assert prompt.text.startswith("A sentence")
    assert 1_500 < prompt.tokens <= 1_900
    single = BUILDER.build("word " * 1_000 + "end", Guidance(), 20, 5)
    assert single.text.endswith("word end")
    assert single.text.startswith("word")
    assert 10 <= single.tokens <= 15


@given(st.one_of(lines, st.text("ab. \n", max_size=200)))
def test_units_are_the_story(story: str) -> None:
    units = list(_split(story * 30))
    assert "".join(text for _, text in units) == story * 30
    at = 0
    for start, text in units:
        assert start == at
        at += len(text)
        assert 0 < len(text.rstrip("\n")) <= 2_000 or not text.strip("\n")


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9999), st.integers(0, 40), texts), min_size=1, max_size=8))
def test_after_any_edits_the_prompt_is_that_of_a_new_builder(edits: list[tuple[int, int, str]]) -> None:
    builder, story = ContextBuilder(words), STORY[:300] + "A sentence of a long line. " * 200 + "\n\nEnd."
    for place, taken, put in edits:
        place %= len(story) + 1
        story = story[:place] + put + story[place + taken :]
        built = builder.build(story, Guidance(), 900, 100)
        assert built == ContextBuilder(words).build(story, Guidance(), 900, 100)


def test_what_does_not_fit_is_said() -> None:
    lore = (
        LoreEntry(title="Second", content="word " * 60, constant=True, order=2),
        LoreEntry(title="First", content="short", constant=True, order=1),
        LoreEntry(title="Third", content="tiny", constant=True, order=3),
    )
    prompt = BUILDER.build(STORY, Guidance("Memory.", AuthorsNote("note " * 100), lore), 200, 60)
    assert [part.title for part in prompt.parts if part.kind == "lore"] == ["First", "Third"]
    assert [(left.kind, left.title) for left in prompt.omitted] == [
        ("note", "Author's note"),
        ("lore", "Second"),
        ("story", "Story"),
    ]
    assert "it takes 122 tokens" in prompt.omitted[1].reason
    assert "characters do not fit" in prompt.omitted[2].reason


def test_memory_that_is_too_large_is_an_error() -> None:
    with pytest.raises(PromptError, match=r"Memory takes 1,002 of the 900 tokens.*Shorten it to 675"):
        BUILDER.build(STORY, Guidance("word " * 500), 1_000, 100)
    with pytest.raises(PromptError, match="100 new tokens do not fit in a context of 100"):
        BUILDER.build("", Guidance(), 100, 100)
    # without a story it may take everything
    assert BUILDER.build("", Guidance("a b"), 6, 1).tokens == 5


@pytest.mark.parametrize(
    ("entry", "story", "called"),
    [
        (LoreEntry(keywords=("rose",)), "A Rose.", True),
        (LoreEntry(keywords=("rose",)), "Two roses", False),
        (LoreEntry(keywords=("rose",), whole_word=False), "Primroses", True),
        (LoreEntry(keywords=("Rose",), case_sensitive=True), "a rose", False),
        (LoreEntry(keywords=("x", "rose")), "a rose", True),
        (LoreEntry(keywords=("", " ")), "  ", False),
        (LoreEntry(keywords=("C++",)), "I write C++, you", True),
        (LoreEntry(keywords=("a.c",)), "abc", False),
        (LoreEntry(keywords=("New York",)), "in new york.", True),
        (LoreEntry(keywords=("東京",)), "彼は東京へ行った", True),
        (LoreEntry(keywords=("Öl",)), "das ÖL brennt", True),
        (LoreEntry(keywords=("rose",), scan_depth=4), "rose....", False),
        (LoreEntry(keywords=("rose",), scan_depth=4), "prim rose", True),
        (LoreEntry(keywords=("rose",), scan_depth=4), "primrose", False),
        (LoreEntry(keywords=("rose",), scan_depth=1, scan_unit="paragraphs"), "rose\n\nno\nno", False),
        (LoreEntry(keywords=("rose",), scan_depth=2, scan_unit="paragraphs"), "rose\n\nno\nno", True),
    ],
)
def test_keywords(entry: LoreEntry, story: str, called: bool) -> None:
    assert is_triggered(entry, story) == called


def test_disabled_and_empty_entries_are_not_told() -> None:
    entry = LoreEntry(keywords=("a",), content="told", constant=True)
    for other in (replace(entry, enabled=False), replace(entry, content=" \n")):
        assert BUILDER.build("a", Guidance(lore=(other,)), 100, 10).text == "a"


def test_tokens_are_counted_sparingly() -> None:
    counted: list[int] = []

    def count(text: str) -> int:
        counted.append(len(text))
        return words(text)

    builder = ContextBuilder(count)
    guidance = Guidance("Memory.", NOTE)

    def build(story: str) -> None:
        builder.build(story, guidance, 1_000, 100, count_prompt=lambda text, asked: words(text))

    build(STORY)
    assert sum(counted) < len(STORY) + 100
    counted.clear()
    build(STORY + "More")
    build(STORY[:100] + "edit" + STORY[100:])
    assert sum(counted) < 200


def test_a_long_story_is_not_slow() -> None:
    story = STORY * 30  # 800 KB
    builder = ContextBuilder(len)
    builder.build(story, Guidance("Memory", NOTE), 100_000, 1_000)
    start = time.perf_counter()
    builder.build(story + "x", Guidance("Memory", NOTE), 100_000, 1_000)
    assert time.perf_counter() - start < 1
    start = time.perf_counter()
    builder.build("\n" * 500_000, Guidance("Memory", NOTE), 1_000, 100)
    builder.build(" \n" * 250_000, Guidance("Memory", NOTE), 1_000, 100)
    builder.build("x" * 500_000, Guidance("Memory", NOTE), 1_000, 100)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "make",
    [
        lambda: AuthorsNote(depth=0),
        lambda: AuthorsNote(depth=True),
        lambda: AuthorsNote(unit="words"),
        lambda: LoreEntry(scan_depth=0),
        lambda: LoreEntry(scan_unit="lines"),
        lambda: LoreEntry(order=10**9),
    ],
)
def test_guidance_out_of_range_is_refused(make: object) -> None:
    with pytest.raises(StoryError):
        make()


ABOUT = Guidance("It rains.", NOTE, about="a fox")


def test_what_a_chat_model_is_asked_stands_apart_from_its_answer() -> None:
    prompt = BUILDER.build("Once", ABOUT, 100, 10, chat_tokens=7)
    assert prompt.instruction == "It rains.\n\nWrite me a story about a fox"
    assert prompt.text == "[Author's note: Be calm.]\nOnce"
    assert prompt.budget == 100 - 10 - 7
    assert prompt.tokens == sum(part.tokens for part in prompt.parts)


def test_a_model_that_cannot_be_asked_is_told_the_rest_and_the_writer_that() -> None:
    prompt = BUILDER.build("Once", ABOUT, 100, 10)
    assert (
        prompt.instruction == ""
        and prompt.text == BUILDER.build("Once", replace(ABOUT, about=""), 100, 10).text
    )
    assert [(out.kind, out.reason) for out in prompt.omitted] == [("about", "this model cannot be asked")]


def test_more_asked_than_there_is_room_for_is_refused() -> None:
    with pytest.raises(PromptError, match="say it in fewer words"):
        BUILDER.build("Once", replace(ABOUT, about="fox " * 200), 100, 10, chat_tokens=7)
