from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jet.api import SamplingParams
from jet.story.document import Document
from jet.story.errors import StoryFileError
from jet.story.files import (
    MAX_BYTES,
    file_name,
    from_json,
    to_browser,
    to_json,
    to_markdown,
    to_txt,
)
from jet.story.format import decode, encode
from jet.story.guidance import AuthorsNote, Guidance, LoreEntry
from tests.story.factory import MODEL, SAMPLING, any_text, fill, read_file, story

# What a text box can hold: line breaks are "\n" there.
box_text = any_text.map(lambda text: text.replace("\0", "").replace("\r", "\n"))


def rich() -> Document:
    """Return a document with a value in every field."""
    document = story("Once <script>", " upon\n", " a “time” 😀")
    fill(
        document.start_continuation(MODEL, SAMPLING, at=4),
        " more",
        " 語",
        alternatives=(" less", "<|endoftext|>"),
    )
    document.edit(document.text.replace("upon", "uxon"))
    fork = document.fork(6)
    document.rename(fork, "Another")
    fill(document.retry(MODEL, SamplingParams(seed=1, temperature=0)), "x")
    document.title = "The # Tower"
    document.sampling = SamplingParams(top_k=40)
    lore = LoreEntry("T", ("tower", "turm"), "Tall.", False, True, True, False, -5, 3, "paragraphs")
    note = AuthorsNote("Note", 2, "paragraphs")
    document.guidance = Guidance("Memory\n", note, (lore, LoreEntry()), "a fox")
    document.stops = ("The End", " 語")
    fill(document.start_continuation(MODEL, SAMPLING), " told")
    document.guidance = replace(document.guidance, memory="Another")
    fill(document.start_continuation(MODEL, SAMPLING), " and", " told")
    return document


# --- round trips -----------------------------------------------------------------------------------------


def test_json_keeps_everything_byte_for_byte() -> None:
    document = rich()
    kept = to_json(document)
    loaded = read_file("story.JSON", kept.encode())
    assert to_json(loaded) == kept
    assert loaded.tree == document.tree
    assert (loaded.title, loaded.guidance, loaded.sampling) == (
        document.title,
        document.guidance,
        document.sampling,
    )
    assert not loaded.can_undo
    loaded.edit(loaded.text + "!")  # new ids do not collide with loaded ones
    assert decode(encode(loaded)).tree == loaded.tree


@given(box_text, box_text)
def test_text_and_markdown_keep_the_text(text: str, title: str) -> None:
    document = Document.from_text(text, title)
    text = re.sub("[\v\f\x85\u2028\u2029]", "\n", text)  # breaks of other programs become ours
    assert read_file("a.txt", to_txt(document).encode()).text == text
    loaded = read_file("a.md", to_markdown(document).encode())
    assert loaded.text == text
    assert loaded.title == document.title


def test_imports_of_text() -> None:
    loaded = read_file("/somewhere/The Tower.txt", "\ufeffa\r\nb\rc\n".encode())
    assert (loaded.text, loaded.title) == ("a\nb\nc\n", "The Tower")
    assert read_file("x.txt", b"").text == ""
    loaded = read_file("x.markdown", b"# A title\r\n\r\n## Chapter\n\nText")
    assert (loaded.title, loaded.text) == ("A title", "## Chapter\n\nText")
    loaded = read_file("Name.md", b"## Chapter\n\nText")
    assert (loaded.title, loaded.text) == ("Name", "## Chapter\n\nText")
    loaded = read_file("Name.md", b"# no title, it goes on\nhere")
    assert (loaded.title, loaded.text) == ("Name", "# no title, it goes on\nhere")


@given(st.text(st.characters(), max_size=20))
def test_guidance_of_any_text_can_be_kept(text: str) -> None:
    """Test texts as the page receives them, lone surrogates included."""
    document = Document()
    document.guidance = Guidance(text, AuthorsNote(text), (LoreEntry(text, (text,), text),), text)
    kept = to_json(document)
    kept.encode()
    assert to_json(from_json(kept)) == to_json(from_json(to_json(from_json(kept))))


def test_file_names() -> None:
    assert file_name(Document(title="The Tower: ../2?"), "md") == "The_Tower_2.md"
    assert file_name(Document(), "json") == "story.json"
    assert file_name(Document(title="塔の物語"), "txt") == "塔の物語.txt"


# --- KoboldAI --------------------------------------------------------------------------------------------


def test_kobold_story() -> None:
    saved = {
        "gamestarted": True,
        "prompt": "Once",
        "memory": "A tale.",
        "authorsnote": "Calm.",
        "anotetemplate": "[Author's note: <|>]",
        "actions": [" upon", "\r\na time"],
        "worldinfo": [{"key": "tower, keep,", "keysecondary": "", "content": "Tall.", "constant": True}],
        "savedsettings": {"temperature": 1},
    }
    document = from_json(json.dumps(saved))
    assert document.text == "Once upon\na time"
    lore = LoreEntry(keywords=("tower", "keep"), content="Tall.", constant=True, whole_word=False)
    assert document.guidance == Guidance("A tale.", AuthorsNote("Calm."), (lore,))
    assert from_json('{"prompt": "a", "actions": [], "worldinfo": null}').text == "a"


# --- garbage ---------------------------------------------------------------------------------------------


def changed(path: tuple[Any, ...], value: Any) -> bytes:
    """Return a valid file with the value at this path changed; `...` as value removes it."""
    plain = json.loads(to_json(rich()))
    at = plain
    for step in path[:-1]:
        at = at[step]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return json.dumps(plain).encode()


WRITTEN = next(n for n, span in enumerate(json.loads(to_json(rich()))["spans"]) if "model" not in span)
GENERATED = next(n for n, span in enumerate(json.loads(to_json(rich()))["spans"]) if "model" in span)
TOLD = next(n for n, span in enumerate(json.loads(to_json(rich()))["spans"]) if "told" in span)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), "other", "its format is 'other', not 'jet-stories'"),
        (("format",), ..., "neither ours nor of KoboldAI"),
        (("version",), 2, "version 2 of the format, and only up to 1"),
        (("version",), 0, "version 0 of the format, which does not exist"),
        (("version",), True, "'version' must be a whole number"),
        (("version",), "1", "'version' must be a whole number"),
        (("title",), None, "'title' must be text"),
        (("extra",), 1, "the story has an unknown field 'extra'"),
        (("current",), 999, "current: there is no branch 999"),
        (("branches",), {}, "'branches' must be a list"),
        (("branches",), [], "there is no branch"),
        (("branches", 1), 5, r"branches\[1\] must be an object"),
        (("branches", 1, "parent"), 77, "the parent 77 of branch .* does not exist"),
        (("branches", 0, "parent"), 0, "the parents of branch 0 form a circle"),
        (("branches", 1, "id"), 0, "two have the id 0"),
        (("branches", 1, "id"), -1, "-1 cannot be an id"),
        (("branches", 1, "id"), 2**60, "cannot be an id"),
        (("branches", 1, "id"), 1.5, "'id' must be a whole number"),
        (("branches", 0, "pieces", 0), [1, 0], r"branches\[0\].pieces\[0\] must be \[span, start, end\]"),
        (("branches", 0, "pieces", 0), [True, 0, 1], r"must be \[span, start, end\]"),
        (("branches", 0, "pieces", 0), [999, 0, 1], "there is no span 999"),
        (("branches", 0, "pieces", 0, 2), 10_000, "has no characters from 0 to 10000"),
        (("branches", 0, "pieces", 0, 1), -1, "has no characters from -1"),
        (("branches", 0, "surprise"), 0, r"branches\[0\] has an unknown field 'surprise'"),
        (("spans", 0, "text"), 5, r"spans\[0\]: 'text' must be text"),
        (("spans", WRITTEN, "model"), "m", r"spans\[\d+\] has no field 'sampling'"),
        (("spans", GENERATED, "tokens", 0), [1], r"tokens\[0\] must be \[id, length"),
        (("spans", GENERATED, "tokens", 0, 1), -4, r"tokens\[0\]: A token cannot have -4"),
        (("spans", GENERATED, "tokens", 0, 2), "x", r"tokens\[0\] must be"),
        (("spans", GENERATED, "tokens", 0, 2), 10**400, r"tokens\[0\]: "),
        (("spans", GENERATED, "tokens", 0, 2), float("inf"), "Infinity is not a number there"),
        (("spans", GENERATED, "tokens", 0, 3), [[1, 2, 3]], r"must be \[id, text, log-probability\]"),
        (("spans", GENERATED, "sampling", "temperature"), 99, r"sampling: temperature must be from 0 to 5"),
        (("spans", GENERATED, "finish_reason"), 3, "'finish_reason' must be text"),
        (("sampling", "temperature"), "hot", "sampling: temperature must be a number"),
        (("sampling", "temperature"), 10**400, "sampling: "),
        (("sampling", "magic"), 1, "sampling has an unknown field 'magic'"),
        (("guidance", "note", "depth"), 0, "guidance.note: The depth of the author's note"),
        (("guidance", "note"), [], "guidance: 'note' must be an object"),
        (("guidance", "note", "unit"), "acts", "counts lines or paragraphs, not 'acts'"),
        (("guidance", "lore", 0, "keywords"), "a", r"guidance.lore\[0\]: 'keywords' must be a list"),
        (("guidance", "lore", 0, "keywords"), [1], r"guidance.lore\[0\].keywords\[0\] must be text"),
        (("guidance", "lore", 0, "enabled"), 1, "'enabled' must be true or false"),
        (("guidance", "lore", 1, "order"), ..., r"guidance.lore\[1\] has no field 'order'"),
        (("stops",), [1], r"stops\[0\] must be text"),
        (("told",), [], r"spans\[\d+\]: there is no guidance 0 in 'told'"),
        (("told", 0), 1, r"told\[0\] must be an object"),
        (("spans", TOLD, "told"), -1, "there is no guidance -1"),
        (("spans", TOLD, "stops"), "x", "'stops' must be a list"),
    ],
)
def test_garbage_is_named(path: tuple[Any, ...], value: Any, message: str) -> None:
    with pytest.raises(StoryFileError, match=message):
        read_file("story.json", changed(path, value))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", b"", "not JSON: line 1, column 1"),
        ("a.json", b'{"a":\n tru}', "not JSON: line 2, column 2"),
        ("a.json", b"[1, 2]", "neither ours nor of KoboldAI"),
        ("a.json", b'"text"', "neither ours nor of KoboldAI"),
        ("a.json", b"NaN", "NaN is not a number there"),
        ("a.json", b"[" * 200_000, "nested too deeply"),
        ("a.json", b"1" * 10_000, "not JSON"),
        ("a.txt", b"\xff", "save it as UTF-8"),
        ("a.md", b"ab\0", "save it as UTF-8"),
        ("a.txt", b"x" * (MAX_BYTES + 1), "20.0 MB"),
        ("a.txt", b"x" * 5_000_000, "4,000,000 characters"),
        ("a.docx", b"x", "no DOCX file"),
        ("", b"x", "are read from"),
    ],
)
def test_files_that_are_none_of_ours(name: str, data: bytes, message: str) -> None:
    with pytest.raises(StoryFileError, match=message):
        read_file(name, data)


def test_numbers_too_large_for_a_float() -> None:
    data = changed(("spans", GENERATED, "tokens", 0, 3), [[1, "a", 12345678]])
    with pytest.raises(StoryFileError, match=r"tokens\[0\]: .*finite number, not inf"):
        read_file("a.json", data.replace(b"12345678", b"1e999"))


def test_a_circle_of_three() -> None:
    plain = json.loads(to_json(rich()))
    ids = [branch["id"] for branch in plain["branches"]]
    for branch, parent in zip(plain["branches"], [*ids[1:], ids[0]], strict=True):
        branch["parent"] = parent
    with pytest.raises(StoryFileError, match="circle"):
        from_json(json.dumps(plain))


def test_settings_that_a_file_does_not_have_yet_get_their_defaults() -> None:
    assert read_file("a.json", changed(("sampling", "top_p"), ...)).sampling == SamplingParams(top_k=40)


plain_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 5), st.floats(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def paths(plain: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = plain.keys() if isinstance(plain, dict) else range(len(plain)) if isinstance(plain, list) else ()
    return [here, *(path for key in keys for path in paths(plain[key], (*here, key)))]


PATHS = paths(json.loads(to_json(rich())))[1:]


@given(st.sampled_from(PATHS), st.one_of(st.just(...), plain_json))
@settings(deadline=None, max_examples=300)
def test_damaged_files_are_read_or_refused_in_words(path: tuple[Any, ...], value: Any) -> None:
    try:
        document = read_file("a.json", changed(path, value))
    except StoryFileError as error:
        assert str(error)
    else:  # still sound, so it can be worked with and kept
        document.outline()
        document.tokens()
        document.edit(document.text + "x")
        assert decode(encode(document)).tree == document.tree


@given(st.sampled_from(["a.json", "a.txt", "a.md"]), st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_in_words(name: str, data: bytes) -> None:
    try:
        read_file(name, data).outline()
    except StoryFileError as error:
        assert str(error)


# --- copies of bounded size ------------------------------------------------------------------------------


def long_story() -> Document:
    document = story("Begin.")
    document.guidance = Guidance("It rains. " * 9)
    for passage in range(12):
        words = [f" word{passage}.{n}" for n in range(20)]
        fill(document.start_continuation(MODEL, SAMPLING), *words, alternatives=(" one", " two"))
        if passage % 3 == 0:
            fill(document.retry(MODEL, SAMPLING), *words[::-1], alternatives=(" one",))
            document.edit(document.text + " and so on")
    document.edit(document.text.replace("word5", "", 5))
    return document


def size(text: str) -> int:
    return len(text.encode())


def test_copies_lose_what_matters_least() -> None:
    document = long_story()
    full = size(encode(document))
    seen: list[tuple[str, ...]] = []
    previous = ""
    for limit in range(full, 0, -full // 60):
        copy = to_browser(document, limit)
        loaded = from_json(copy.text)
        assert loaded.text == document.text
        assert [r.author for r in loaded.ranges()] == [r.author for r in document.ranges()]
        assert copy.fits == (size(copy.text) <= limit)
        assert copy.fits or len(copy.dropped) == 5
        if copy.dropped not in seen:
            seen.append(copy.dropped)
        assert not previous or size(copy.text) <= size(previous)
        previous = copy.text
    assert seen[0] == ()
    assert len(seen[-1]) == 5
    kinds = {dropped[-1].rpartition(" in ")[0] or dropped[-1] for dropped in seen if dropped}
    assert {"the alternatives to the model's words", "the probabilities of the model's words"} <= kinds
    assert "what was sent to the model beside the story" in kinds
    assert any("branches" in dropped[-1] for dropped in seen if dropped)


def test_copies_keep_the_ancestors_of_the_current_branch_longest() -> None:
    document = story("One two three. " * 20)
    side = document.fork(3)
    document.edit("One" + "x" * 2_000)
    document.select_branch(0)
    child = document.fork(10)
    document.edit(document.text + "y" * 300)
    copy = to_browser(document, size(encode(document)) - 500)
    assert copy.fits
    assert copy.dropped == ("1 of 3 branches",)
    assert set(from_json(copy.text).tree.branches) == {0, child}
    assert side not in from_json(copy.text).tree.branches


def test_a_small_story_is_kept_whole() -> None:
    document = rich()
    copy = to_browser(document)
    assert (copy.text, copy.dropped, copy.fits) == (encode(document), (), True)


def test_json_never_drops_text() -> None:
    document = rich()
    document.guidance = replace(document.guidance, memory="語" * (MAX_BYTES // 3))
    with pytest.raises(StoryFileError, match="prune branches"):
        to_json(document)
