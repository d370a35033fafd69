"""Test that whole prompts are counted, because parts may add up to fewer tokens, and stories are cut."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jet.story.context import ContextBuilder, Prompt, PromptError, as_tokenized
from jet.story.guidance import AuthorsNote, Guidance, LoreEntry

DIALOGUE = "".join(f"“Is that {n} already?” she asked. \n\n" for n in range(742))


def blanks_split(text: str) -> int:
    """Count tokens: a blank before line breaks is one with them at the end of a text, two elsewhere."""
    return len(re.findall(r"\w+|[^\w\s]|\s+(?!\S)|\s", text))


def every_seam(text: str) -> int:
    """Count tokens: a run of line breaks is three, or one at the end of a text."""
    return (
        len(re.findall(r"\w+|[^\w\n]", text))
        + 3 * len(re.findall(r"\n+(?!\n|\Z)", text))
        + text.endswith("\n")
    )


def pairs(text: str) -> int:
    """Count tokens: two characters of a line are one, and each empty line adds two."""
    return sum(-(-len(line) // 2) for line in text.split("\n")) + 2 * text.count("\n\n")


TOKENIZERS = [blanks_split, every_seam, pairs]
GUIDANCE = [
    Guidance(),
    Guidance("The keeper is old. \n\nHe is \n\ndeaf. "),
    Guidance("", AuthorsNote("Slowly. \n\nCalm.", depth=4)),
    Guidance(
        "A \n\nB",
        AuthorsNote("C"),
        tuple(LoreEntry(f"{n}", (), "D. \n\n" * 9, constant=True) for n in range(9)),
    ),
    Guidance("A", about="a lamp \n\nand a bell"),
]


@pytest.mark.parametrize("count", TOKENIZERS)
@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("context", [90, 400, 2_000, 100_000])
def test_a_story_is_cut_until_the_finished_prompt_fits(
    count: object, guidance: Guidance, context: int
) -> None:
    builder = ContextBuilder(count)  # type: ignore[arg-type]
    chat = 12 if guidance.about else None
    asked_room = 20

    def finished(text: str, asked: str) -> int:
        return count(f"<|user|>\n{asked}\n\n<|writer|>\n{text}" if asked else text)  # type: ignore[operator]

    prompt = builder.build(DIALOGUE, guidance, context, asked_room, chat, finished)
    assert finished(prompt.text, prompt.instruction) <= context - asked_room
    assert prompt.tokens == finished(prompt.text, prompt.instruction) - (chat or 0) * bool(prompt.instruction)
    assert prompt.parts[-1].kind == "story"
    assert DIALOGUE.endswith(prompt.parts[-1].text)


def test_the_cut_still_stays_put_while_the_story_grows() -> None:
    builder = ContextBuilder(blanks_split)
    starts = []
    for end in range(20_000, len(DIALOGUE), 50):
        prompt = builder.build(DIALOGUE[:end], Guidance("A memory."), 2_000, 100)
        assert blanks_split(prompt.text) == prompt.tokens <= prompt.budget
        starts.append(next(part.start for part in prompt.parts if part.kind == "story"))
    assert starts == sorted(starts)
    assert len(set(starts)) < len(starts) / 4


stories = st.lists(
    st.sampled_from(["One. ", "two", "\n", "\n\n", " \n\n", "语。", "x" * 30, " ", "“Yes.” "]), max_size=60
).map("".join)
guidances = st.builds(
    Guidance,
    memory=st.sampled_from(["", "Short. \n\nAnd", "m " * 30]),
    note=st.builds(AuthorsNote, text=st.sampled_from(["", "Calm. \n\nYes"]), depth=st.integers(1, 4)),
    lore=st.lists(
        st.builds(LoreEntry, content=st.sampled_from(["lore \n\n" * 4, "x"]), constant=st.just(True)),
        max_size=3,
    ).map(tuple),
)


@given(st.sampled_from(TOKENIZERS), stories, guidances, st.integers(1, 120), st.integers(0, 40))
@settings(deadline=None, max_examples=150)
def test_whatever_seams_cost_what_is_built_fits(
    count: object, story: str, guidance: Guidance, context: int, room: int
) -> None:
    try:
        prompt = ContextBuilder(count).build(story, guidance, context, room)  # type: ignore[arg-type]
    except PromptError:
        assert context <= room or guidance.memory  # the only guidance that is never left out
        return
    assert count(prompt.text) == prompt.tokens <= prompt.budget  # type: ignore[operator]
    told = "".join(part.text for part in prompt.parts if part.kind == "story")
    assert story.endswith(told)
    assert bool([left for left in prompt.omitted if left.kind == "story"]) == (told != story)


def test_what_is_shown_is_what_is_read() -> None:
    def read(text: str) -> str:
        return text.rstrip("\t \u00a0") + " " if text[-1:] in "\t \u00a0" else text

    builder = ContextBuilder(blanks_split)
    for story, shown in (("The door \t", "The door "), ("The door", "The door"), ("a\u00a0\u00a0", "a ")):
        prompt = builder.build(story, Guidance("M."), 500, 10)
        assert as_tokenized(prompt, read).text == "M.\n\n" + shown
        assert prompt.text == "M.\n\n" + story
    assert as_tokenized(Prompt((), (), 0, 10), lambda text: text).text == ""
