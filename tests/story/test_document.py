from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jet.affixes import common_prefix, common_suffix
from jet.api import SamplingParams
from jet.story import document as module
from jet.story.document import MAX_UNDO, MAX_VARIANTS, Document
from jet.story.errors import StoryError
from jet.story.guidance import Guidance
from jet.story.pieces import Token, clean
from jet.story.tree import MAX_BRANCHES, MAX_CHARACTERS
from tests.story.factory import MODEL, SAMPLING, any_text, fill, owners, story, texts

# --- edits -----------------------------------------------------------------------------------------------


@given(st.lists(any_text.map(lambda text: text.replace("\0", "")), max_size=6))
def test_editing_to_any_text_gives_exactly_that_text(versions: list[str]) -> None:
    document = story("Once ", "upon ", "a ", "time")
    for version in map(clean, versions):
        changed = document.text != version
        assert document.edit(version) == changed
        assert document.text == version


@given(st.lists(texts, max_size=5), texts, st.data())
def test_what_an_edit_does_not_touch_keeps_its_author(
    parts: list[str], new: str, data: st.DataObject
) -> None:
    document = story(*parts)
    old, before = document.text, owners(document)
    start = data.draw(st.integers(0, len(old)))
    end = data.draw(st.integers(start, len(old)))
    document.edit(old[:start] + new + old[end:])
    after = owners(document)
    prefix = common_prefix(old, document.text)
    suffix = min(common_suffix(old, document.text), min(len(old), len(after)) - prefix)
    assert after[:prefix] == before[:prefix]
    assert after[len(after) - suffix :] == before[len(before) - suffix :]
    assert after.count("m") <= before.count("m")


def test_replacing_a_name_leaves_the_rest_to_the_model() -> None:
    tale = "".join(f"On day {n} the old king Tom rode out to town {n * 3}.\n" for n in range(30))
    document = story("Begin. ", tale)
    document.edit(document.text.replace("Tom", "Odo"))
    assert owners(document).count("w") == len("Begin. ") + 30 * len("Odo")


def test_typing_makes_few_spans_and_deleting_leaves_no_trace() -> None:
    document = story("The end.")
    for character in "Some more words.":
        document.edit(document.text + character, join=True)
    assert len(document.ranges()) == 1
    document.edit("x" * 10_000)
    document.edit("x")
    assert sum(len(piece.span.text) for piece in document.tree.branch().pieces) == 1


def test_the_models_words_deleted_and_typed_again_are_one_range_without_gap() -> None:
    document = story("", "hello world")
    document.edit("hello, world")
    document.edit("hello world")
    assert len(document.ranges()) == 1
    assert owners(document) == "m" * 11


def test_joined_edits_are_one_step() -> None:
    document = story("a")
    document.edit("ab")
    document.edit("abc", join=True)
    document.edit("abcd", join=True)
    assert document.undo()
    assert document.text == "a"
    document.redo()
    document.edit("abcde", join=True)  # after Redo a new step
    document.undo()
    assert document.text == "abcd"


def test_too_long_a_text_is_refused_and_changes_nothing() -> None:
    document = story("a")
    with pytest.raises(StoryError, match="4,000,000 characters"):
        document.edit("x" * (MAX_CHARACTERS + 1))
    assert document.text == "a"
    continuation = document.start_continuation(MODEL, SAMPLING)
    with pytest.raises(StoryError, match="4,000,000"):
        continuation.append("x" * MAX_CHARACTERS)
    continuation.append("b")
    continuation.finish()
    assert document.text == "ab"


def test_half_characters_and_nul_are_replaced() -> None:
    document = Document()
    document.edit("a\ud800\0")
    with document.start_continuation(MODEL, SAMPLING) as continuation:
        continuation.append("\udc00\0")
    assert document.text == "a\ufffd\ufffd\ufffd\ufffd"


# --- continuing ------------------------------------------------------------------------------------------


def test_a_continuation_streams_into_the_text() -> None:
    document = story("Once")
    continuation = document.start_continuation(MODEL, SAMPLING)
    assert continuation.prompt == "Once"
    assert document.generating
    continuation.append(" upon", [Token(5, 5, -1.0)])
    assert document.text == "Once upon"
    continuation.append("")
    continuation.append(" a", [Token(6, 2)])
    continuation.finish("stop")
    continuation.finish("again, which does nothing")
    assert not document.generating
    assert document.text == "Once upon a"
    last = document.ranges()[-1]
    assert (last.start, last.end, last.author) == (4, 11, "model")
    made = document.generation(last.span)
    assert made is not None
    assert (made.model, made.sampling, made.finish_reason) == (MODEL, SAMPLING, "stop")
    assert [token.id for token in made.tokens] == [5, 6]
    assert document.generation(document.ranges()[0].span) is None
    document.undo()
    assert document.text == "Once"
    document.redo()
    assert document.text == "Once upon a"
    with pytest.raises(StoryError, match="ended"):
        continuation.append("more")


def test_a_continuation_from_the_cursor_keeps_what_stands_behind() -> None:
    document = story("Once .")
    with document.start_continuation(MODEL, SAMPLING, at=5) as continuation:
        assert continuation.start == 5
        continuation.append("upon")
        assert document.text == "Once upon."
        continuation.append(" a time")
    assert document.text == "Once upon a time."
    assert owners(document) == "wwwww" + 11 * "m" + "w"
    fill(document.retry(MODEL, SAMPLING), "more")
    assert document.text == "Once more."
    with pytest.raises(StoryError, match="no place 11"):
        document.start_continuation(MODEL, SAMPLING, at=11)


def test_an_error_while_writing_keeps_the_text_and_frees_the_document() -> None:
    document = story("Once")

    def fail() -> None:
        with document.start_continuation(MODEL, SAMPLING) as continuation:
            continuation.append(" upon")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert document.text == "Once upon"
    assert not document.generating
    made = document.generation(document.ranges()[-1].span)
    assert made is not None
    assert made.finish_reason is None


@pytest.mark.parametrize("begin", ["write", "retry", "ways"])
def test_a_continuation_without_text_is_as_if_it_had_never_been(begin: str) -> None:
    document = story("Once", " upon", " a", " time")
    document.undo()
    before = document.tree
    match begin:
        case "write":
            document.start_continuation(MODEL, SAMPLING).finish("error")
        case "retry":
            document.retry(MODEL, SAMPLING).finish("error")
        case _:
            ways = document.start_variants(MODEL, [SAMPLING] * 3)
            document.select_branch(ways[1].branch)
            for way in ways:
                way.finish("error")
    assert document.tree is before
    assert document.can_redo
    document.redo()
    assert document.text == "Once upon a time"


def test_while_writing_nothing_but_the_view_can_change() -> None:
    document = story("a", "b")
    continuation = document.start_continuation(MODEL, SAMPLING)
    continuation.append("c")
    forbidden: list[Callable[[], object]] = [
        lambda: document.edit("x"),
        document.undo,
        document.redo,
        lambda: document.fork(0),
        lambda: document.delete_branch(0),
        lambda: document.rename(0, "x"),
        lambda: document.start_continuation(MODEL, SAMPLING),
        lambda: document.retry(MODEL, SAMPLING),
        lambda: document.start_variants(MODEL, [SAMPLING]),
        lambda: document.replace_token(1, 0),
    ]
    assert not document.can_undo
    for action in forbidden:
        with pytest.raises(StoryError, match="still writing"):
            action()
    assert document.edit("abc") is False  # no change, so nothing to refuse
    continuation.append("d")
    continuation.finish()
    assert document.text == "abcd"


def test_retry_makes_siblings() -> None:
    document = story("Once", " upon")
    for word in (" there", " in"):
        fill(document.retry(MODEL, SamplingParams(seed=8)), word)
    assert document.text == "Once in"
    assert [(view.name, view.depth, view.fork, view.preview) for view in document.outline()] == [
        ("", 0, 0, "Once upon"),
        ("", 1, 5, "there"),
        ("", 1, 5, "in"),
    ]
    fill(document.retry(MODEL, SamplingParams(seed=9)), " into")  # "in" is common, the word is not
    assert document.outline()[-1].preview == "into"
    document.undo()
    document.undo()
    assert document.text == "Once there"
    document.select_branch(0)
    assert document.text == "Once upon"


def test_retry_leaves_what_was_written_on_from_there() -> None:
    document = story("Once", " upon", " a time")
    fill(document.retry(MODEL, SAMPLING), " more")
    assert document.text == "Once more"
    with pytest.raises(StoryError, match="no continuation"):
        story("only mine").retry(MODEL, SAMPLING)


def test_three_options() -> None:
    document = story("Once")
    ways = document.start_variants(MODEL, [SamplingParams(seed=seed) for seed in range(3)])
    for text in (" upon", " there", " in"):  # all at once
        for number, way in enumerate(ways):
            way.append(f"{text}{number}")
    assert document.text == "Once"
    document.select_branch(ways[1].branch)
    assert document.text == "Once upon1 there1 in1"
    for way in ways:
        way.finish("length")
    assert document.text == "Once upon1 there1 in1"
    assert [view.length for view in document.outline()] == [4, 21, 21, 21]
    document.undo()
    assert len(document.outline()) == 1
    for samplings in ([], [SAMPLING] * (MAX_VARIANTS + 1)):
        with pytest.raises(StoryError, match=f"1 to {MAX_VARIANTS}"):
            document.start_variants(MODEL, samplings)


def test_of_three_variants_one_may_fail() -> None:
    document = story("Once. The end.")
    ways = document.start_variants(MODEL, [SAMPLING] * 3, at=5)
    document.select_branch(ways[1].branch)
    ways[0].append(" One.")
    ways[2].append(" Three.")
    for way in ways:
        way.finish()
    assert document.text == "Once. The end."
    assert sorted(document.tree.branch(view.id).text for view in document.outline()) == [
        "Once. One. The end.",
        "Once. The end.",
        "Once. Three. The end.",
    ]


def test_picking_another_word() -> None:
    document = story("It was")
    fill(
        document.start_continuation(MODEL, SAMPLING),
        " a",
        " dark",
        " night",
        alternatives=(" stormy", "", "\ufffd"),
    )
    found = document.token_at(10)
    assert found is not None
    assert document.text[found.start : found.end] == " dark"
    at = document.replace_token(10, 0)
    assert document.text == "It was a stormy"
    assert at == len(document.text)
    assert owners(document) == 6 * "w" + 9 * "m"
    assert [document.text[t.start : t.end] for t in document.tokens()] == [" a", " stormy"]
    again = document.token_at(10)
    assert again is not None
    assert again.token.alternatives == found.token.alternatives
    fill(document.start_continuation(MODEL, SAMPLING, at=at), " sea")
    assert document.text == "It was a stormy sea"
    assert document.tree.branch(0).text == "It was a dark night"
    for offset, choice in ((0, 0), (99, 0), (10, 3), (10, -1)):
        with pytest.raises(StoryError, match="no such alternative"):
            document.replace_token(offset, choice)
    for choice in (1, 2):
        with pytest.raises(StoryError, match="no text"):
            document.replace_token(10, choice)


def test_picking_another_word_keeps_what_stood_behind_the_cursor() -> None:
    document = story("It was. The end.")
    fill(document.start_continuation(MODEL, SAMPLING, at=6), " dark", " night", alternatives=(" a",))
    document.replace_token(6, 0)
    assert document.text == "It was a. The end."


# --- branches --------------------------------------------------------------------------------------------


def test_fork_walk_name_and_compare() -> None:
    document = story("One two three")
    fork = document.fork(4)
    assert document.text == "One "
    document.edit("One five")
    document.rename(fork, "  another\nway ")
    assert document.tree.branch().name == "another way"
    assert document.compare(0, fork) == module.Comparison("One ", "two three", "five")
    document.select_branch(0)
    document.select_branch(fork)  # there and back again is no step
    document.select_branch(0)
    third = document.fork(2)
    document.select_branch(0)
    document.select_branch(fork)
    document.select_branch(0)
    assert document.text == "One two three"
    document.undo()  # the whole walk
    assert document.current == third
    document.undo()
    document.undo()
    assert document.text == "One five"
    with pytest.raises(StoryError, match="no branch 99"):
        document.select_branch(99)
    with pytest.raises(StoryError, match="no place"):
        document.fork(-1)


def test_editing_a_branch_leaves_the_others_alone() -> None:
    document = story("One", " two")
    fork = document.fork(5)
    document.edit("Uno t")
    document.select_branch(0)
    assert document.text == "One two"
    assert document.tree.branch(fork).text == "Uno t"


def test_deleting_a_branch_keeps_its_children() -> None:
    document = story("One two three")
    first = document.fork(7)
    document.edit("One two four")
    second = document.fork(10)
    assert [view.parent for view in document.outline()] == [None, 0, first]
    document.delete_branch(first)
    assert [view.parent for view in document.outline()] == [None, 0]
    assert document.tree.branch(second).text == "One two fo"
    document.delete_branch(0)
    assert document.current == second
    with pytest.raises(StoryError, match="only branch"):
        document.delete_branch(second)
    while document.undo():
        pass
    document = story("x")
    a, b = document.fork(1), document.fork(0)
    document.delete_branch(0)
    assert {view.id: view.parent for view in document.outline()} == {a: None, b: a}
    assert document.current == b
    document.delete_branch(b)
    assert document.current == a


def test_branches_are_bounded() -> None:
    document = story("x")
    while len(document.tree.branches) < MAX_BRANCHES:
        document.fork(1)
    before = document.tree
    for action in (lambda: document.fork(0), lambda: document.start_variants(MODEL, [SAMPLING])):
        with pytest.raises(StoryError, match="prune some"):
            action()
    assert document.tree is before
    assert len(document._history.past) <= MAX_UNDO
    assert len(document.outline()) == MAX_BRANCHES


# --- undo ------------------------------------------------------------------------------------------------


def test_undo_is_bounded() -> None:
    document = Document()
    for number in range(MAX_UNDO + 50):
        document.edit(str(number))
    steps = 0
    while document.undo():
        steps += 1
    assert steps == MAX_UNDO


def test_what_the_model_wrote_survives_undo_as_a_branch() -> None:
    document = story("Once", " upon a time")
    document.undo()
    document.edit("Once more")
    assert document.text == "Once more"
    assert [document.tree.branch(view.id).text for view in document.outline()] == [
        "Once more",
        "Once upon a time",
    ]
    document.undo()
    document.undo()  # what was taken back
    assert document.text == "Once upon a time"


def test_branches_made_by_undone_steps_come_back_too() -> None:
    document = story("Once", " upon")
    fill(document.retry(MODEL, SAMPLING), " there")
    document.undo()
    document.undo()
    assert document.text == "Once"
    fill(document.start_continuation(MODEL, SAMPLING), " in")
    found = {document.tree.branch(view.id).text for view in document.outline()}
    assert found == {"Once in", "Once upon", "Once there"}


def test_a_deleted_branch_does_not_come_back_by_itself() -> None:
    document = story("Once", " upon")
    fill(document.retry(MODEL, SAMPLING), " there")
    document.delete_branch(0)
    document.edit("Once there was")
    document.undo()
    document.edit("Once there were")
    assert len(document.outline()) == 1


# --- the rest --------------------------------------------------------------------------------------------


def test_title_is_one_line() -> None:
    assert Document(title=" The\nTower\0 ").title == "The Tower\ufffd"
    assert len(Document(title="x" * 1000).title) == 200


def test_a_document_can_be_copied_and_pickled() -> None:
    document = story("Once", " upon")
    for other in (copy.deepcopy(document), pickle.loads(pickle.dumps(document))):
        assert other.tree == document.tree
        other.edit("changed")
        assert other.undo()
        assert document.text == "Once upon"


def test_from_text_has_nothing_to_undo() -> None:
    document = Document.from_text("Once", title="T")
    assert (document.text, document.title, document.can_undo) == ("Once", "T", False)
    assert document.ranges()[0].author == "writer"


def test_undo_covers_what_the_model_is_told() -> None:
    document = Document.from_text("A story.")
    document.edit("A story. More.")
    memory = Guidance(memory="It rains.")
    document.set_guidance(memory)
    document.set_guidance(memory)  # no step of its own
    document.fork(2)
    assert document.guidance == memory
    assert document.undo() and document.undo()
    assert (document.guidance, document.text) == (Guidance(), "A story. More.")
    assert document.redo()
    assert document.guidance == memory


def test_a_continuation_that_is_limited_keeps_its_first_words_and_their_tokens() -> None:
    document = Document.from_text("A")
    with document.start_continuation(MODEL, SAMPLING) as continuation:
        continuation.append(" b c", [Token(1, 2), Token(2, 2)])
        continuation.limit = 3
        continuation.finish("aborted")
    assert document.text == "A b "
    assert [found.token.id for found in document.tokens()] == [1]
    with document.start_continuation(MODEL, SAMPLING) as continuation:
        continuation.append(" d")
        continuation.limit = 0
        continuation.finish("aborted")
    assert document.text == "A b "
    assert document.undo()  # no step was left of the second
    assert document.text == "A"


def test_branches_are_numbered_by_order_of_birth() -> None:
    document = story("Once", " upon", " a time")
    first, second = document.fork(4), document.fork(2)
    numbers = {view.id: view.number for view in document.outline()}
    assert [numbers[id] for id in (0, first, second)] == [1, 2, 3]
    document.delete_branch(first)
    assert [view.number for view in sorted(document.outline(), key=lambda view: view.id)] == [1, 2]
