"""Test that banned phrases are found in every spelling of the rules, and no text waits without need."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from jet.engine.text.banned_phrases import (
    MAX_GAP,
    BannedPhraseError,
    PhraseMatcher,
    State,
    _fold,
    inflections,
)

GAP = "\0"


def read(matcher: PhraseMatcher, parts: list[str], before: str = "") -> tuple[State, int | None]:
    state = matcher.start(before)
    for part in parts:
        state, found = matcher.advance(state, part)
        if found is not None:
            return state, found
    return state, None


def begins(phrases: list[str], text: str, before: str = "", stops: tuple[str, ...] = ()) -> int | None:
    """Return the index at which a banned phrase begins in a whole answer; None if there is none."""
    state, found = read(PhraseMatcher(phrases, stops), [text], before)
    return state.banned_if_ended if found is None else found


@pytest.mark.parametrize(
    ("phrase", "text"),
    [
        ("a testament to", "A TESTAMENT, to"),
        ("a testament to", "“a” *testament*\n\n— to"),
        ("a testament to", "a testaments to"),
        ("couldn't help but", "Couldn’t help but"),
        ("couldn’t help", "couldnt helping"),
        ("shiver down", "shivers down"),
        ("try", "tried"),
        ("stop", "stopping"),
        ("love", "loving"),
        ("die", "dying"),
        ("witch", "witch's"),
        ("Elara", "Elara’s"),
        ("café", "CAFE"),
        ("cafe", "café"),
        ("cafe", "cafe\u0301"),
        ("strasse", "Straße"),
        ("shimmer*", "shimmeringly"),
        ("shimmer* in the", "shimmered in the"),
        ("squared * shoulders", "squared his shoulders"),
        ("a * of", "a lot of"),
        ("heart-stopping", "heart stopping"),
        ("heart*stopping", "heart stopping"),
        ("*smirks*", "smirks"),
        ('"her"', "Her"),
        ("ｆｕｌｌ", "full"),
        ("soft", "so\u00adft"),
        ("—", "a—b"),
        ("...", "well…"),
        ("\n\n\n", "\n\n\n"),
        ("微笑", "他微笑了"),
        ("미소", "미소를"),
    ],
)
def test_every_spelling_that_the_rules_cover_is_found(phrase: str, text: str) -> None:
    assert begins([phrase], f"so {text} he") is not None
    assert begins([phrase], f"so {text}") is not None, "also at the end"


@pytest.mark.parametrize(
    ("phrase", "text"),
    [
        ("her", "herring"),
        ("his", "hiss"),
        ("bed", "bedouin"),
        ("see", "seed"),
        ("star", "stared"),
        ("testament", "testamentary"),
        ("testament", "attestament"),
        ("a testament to", "a testament of"),
        ("a testament to", f"a{' ' * (MAX_GAP + 1)}testament to"),
        ('"whisper"', "whispers"),
        ("shimmer*", "ashimmer"),
        ("squared * shoulders", "squared shoulders"),
        ("squared * shoulders", "squared his broad shoulders"),
        ("...", ".."),
        ("미소", "고미소"),
    ],
)
def test_what_the_rules_do_not_cover_is_not_found(phrase: str, text: str) -> None:
    assert begins([phrase], f"so {text} he") is None
    assert begins([phrase], f"so {text}") is None


def test_a_phrase_may_begin_in_the_prompt_but_must_end_in_the_answer() -> None:
    assert begins(["a testament to"], "ment to him", before="it was a testa") == 0
    assert begins(["a testament to"], " him", before="it was a testament to") is None
    assert begins(["testament"], "s of", before="a testament") == 0
    assert begins(["testament"], "’s end", before="a testament") == 0
    assert begins(["testament"], "’ it said", before="a ‘testament") is None
    assert begins(["ament"], "ament", before="the test") is None, "the middle of a word"
    assert begins(["shimmer*"], "ing", before="it shimmer") == 0


def test_a_phrase_also_ends_where_a_stop_string_cuts_the_text() -> None:
    assert begins(["testament"], "a testamentary", stops=("ary",)) == 2
    assert begins(["testament"], "a testamental", stops=("ary",)) is None
    assert begins(["testament"], "ary", before="a testament", stops=("ary",)) is None


def test_of_phrases_completed_together_the_last_begins_it() -> None:
    assert begins(["her eyes", "eyes"], "and her eyes.") == 8


@pytest.mark.parametrize("phrase", ["", "  "])
def test_a_phrase_with_nothing_in_it_is_refused(phrase: str) -> None:
    with pytest.raises(BannedPhraseError, match="nothing in it"):
        PhraseMatcher([phrase])


def test_a_phrase_of_many_words_is_refused() -> None:
    assert begins([" ".join("a" * 16)], " ".join("a" * 17)) is not None
    with pytest.raises(BannedPhraseError, match="16 words"):
        PhraseMatcher([" ".join("a" * 17)])


def test_phrases_made_to_cost_much_cost_little() -> None:
    """Measure the cost by the number of partial matches that are followed at once."""
    mixed = [f"{number:010b}".replace("0", "a ").replace("1", "* ") for number in range(1000)]
    matcher = PhraseMatcher([f"a {one} end" for one in mixed])
    state, found = matcher.advance(matcher.start("a " * 200), "a " * 20)
    assert found is None and len(state.words) <= 1000
    alike = PhraseMatcher([f"{'a ' * 14}{number}" for number in range(1000)])
    state, _ = alike.advance(alike.start(), "a " * 50)
    assert len(state.words) <= 14


WORDS = ["ab", "abb", "aba", "bab", "b", "a*", "*"]
PHRASES = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join), min_size=1, max_size=5
)
TEXT = st.text("aabbs -’'A\u0301é\n", max_size=40)


def pattern_of(phrase: str) -> str:
    """Return a phrase as a regular expression for the texts of `folded`, with the gap behind the phrase.

    A phrase of asterisks alone becomes "#", which these texts do not contain.
    """
    parts, last = [], ""
    words = re.sub(r"^[* ]+|( [*])+$", "", phrase).split() or ["#"]
    for word in words:
        if word == "*":
            parts.append("[^\0]{1,60}")
            continue
        forms = [word[:-1]] if word.endswith("*") else inflections(word)
        last = "[^\0]{0,60}" if word.endswith("*") else ""
        parts.append(f"(?:{'|'.join(forms)}){last}")
    gap = f"\0{{1,{MAX_GAP}}}"
    return gap.join(parts) + ("" if last else "\0")


def folded(text: str) -> tuple[str, list[int]]:
    """Return a text as folded letters and gaps, and the index in the text of each of these."""
    pairs = [(one or GAP, at) for at, character in enumerate(text) for one in _fold(character)]
    return "".join(one for one, _ in pairs), [at for _, at in pairs]


@settings(max_examples=150, deadline=None)
@given(PHRASES, TEXT, st.lists(st.integers(0, 40), max_size=6))
def test_a_text_in_parts_is_searched_and_held_back_as_a_regular_expression_would(
    phrases: list[str], text: str, cuts: list[int]
) -> None:
    matcher = PhraseMatcher(phrases)
    patterns = [regex.compile(pattern_of(phrase)) for phrase in phrases]
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    state, done = matcher.start(), 0
    for begin, end in pairwise(edges):
        state, found = matcher.advance(state, text[begin:end])
        letters, places = folded(text[: state.position])
        starts = [at for at in range(len(letters)) if not at or letters[at - 1] == GAP or letters[at] == GAP]
        whole = {places[at] for at in starts for one in patterns if one.match(letters, at)}
        if found is not None:
            assert found in whole
            return
        assert not whole
        partial = (
            places[at] for at in starts for one in patterns if one.fullmatch(letters, at, partial=True)
        )
        assert state.held_from == min(partial, default=None)
        assert state.held_from is None or state.held_from >= done, "nothing shown is taken back"
        done = end if state.held_from is None else state.held_from
    letters, places = folded(text)
    starts = [at for at in range(len(letters)) if not at or letters[at - 1] == GAP]
    ended = {places[at] for at in starts for one in patterns if one.match(letters + GAP, at)}
    assert (state.banned_if_ended is None) == (not ended)
    assert state.banned_if_ended is None or state.banned_if_ended in ended


@settings(max_examples=60, deadline=None)
@given(PHRASES, TEXT, TEXT)
def test_a_text_taken_back_is_read_on_as_if_it_had_never_come(
    phrases: list[str], first: str, other: str
) -> None:
    matcher = PhraseMatcher(phrases)
    state, found = matcher.advance(matcher.start(), first)
    if found is None:
        before = state
        matcher.advance(state, other)
        assert state == before
        once = matcher.advance(state, other)
        whole = matcher.advance(matcher.start(), first + other)
        assert once == whole


@settings(max_examples=60, deadline=None)
@given(PHRASES, st.lists(TEXT, min_size=1, max_size=8), TEXT)
def test_remembered_moves_are_those_of_reading_by_character(
    phrases: list[str], parts: list[str], before: str
) -> None:
    """Read each part three times in a row, as tokens come again in a story, and compare all states."""
    matcher, fresh = PhraseMatcher(phrases, ["ab"]), PhraseMatcher(phrases, ["ab"])
    state, other = matcher.start(before), fresh.start(before)
    nodes = dict(zip(_nodes(matcher), _nodes(fresh), strict=True))
    for part in parts * 3:
        state, found = matcher.advance(state, part)
        expected, at = fresh._advance(other, part)
        other = expected
        assert found == (None if at is None else max(at, 0))
        assert (state.position, state.letter, state.in_word) == expected[:3]
        for one, twin in ((state.words, expected.words), (state.literal, expected.literal)):
            assert [(start, nodes.get(node, node), gap) for start, node, gap in one] == list(twin)


def _nodes(matcher: PhraseMatcher) -> list[object]:
    """Return all nodes of a matcher in a fixed order, so that two matchers can be compared."""
    found: dict[object, None] = {}
    left = [matcher._words, matcher._literal, matcher._stops]
    while left:
        node = left.pop()
        if node not in found:
            found[node] = None
            left += [*node.children.values(), *node.gaps, *([node.any_ending] if node.any_ending else [])]
    return list(found)


@given(st.text(max_size=20))
def test_any_character_can_be_read(text: str) -> None:
    matcher = PhraseMatcher(["a b", "—"], ["x"])
    state, found = matcher.advance(matcher.start(text), text)
    assert found is not None or state.position == len(text)


def test_inflections_are_the_regular_ones() -> None:
    assert set(inflections("plan")) == {"plan", "plans", "planned", "planning"}
    assert "admitted" in inflections("admit") and "opened" in inflections("open")
    assert (
        inflections("an") == ["an"] and inflections("their") == ["their"] and inflections("r2d2") == ["r2d2"]
    )
