"""Test that a stream is cut before the first stop string, however it is split into chunks."""

from __future__ import annotations

import pytest

from jet.ui.stop_strings import StopStringFilter


def passed_on(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    """Return the text passed on, and True if a stop string was found."""
    stop_filter = StopStringFilter(stops)
    text = "".join(stop_filter.push(piece) for piece in pieces)
    return text + stop_filter.push("", last=True), stop_filter.matched


@pytest.mark.parametrize(
    ("stops", "text", "wanted"),
    [
        ([], "all of it", "all of it"),
        ([""], "all of it", "all of it"),
        (["###"], "one ### two", "one "),
        (["###"], "one ## two ##", "one ## two ##"),
        (["two", "one"], "a one two", "a "),
        (["\n\n"], "line\nline\n\nmore", "line\nline"),
        (["aab"], "aaab", "a"),
        (["* * *", " * "], "a\n* * * b", "a\n"),
        (["abcd", "bc"], "xabcd", "x"),
        (["abcd", "bc"], "xabce", "xa"),
        (["abcd", "bc"], "xabc", "xa"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 100])
def test_the_cut_is_the_same_in_pieces_of_any_size(
    stops: list[str], text: str, wanted: str, size: int
) -> None:
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    assert passed_on(stops, pieces) == (wanted, wanted != text)


def test_nothing_of_a_stop_string_is_shown_before_it_is_known() -> None:
    stop_filter = StopStringFilter(["The End"])
    assert stop_filter.push("so. The") == "so. "
    assert stop_filter.push(" Enemy") == "The Enemy"
    assert stop_filter.push(" The End") == " "
    assert stop_filter.push("more") == ""
