"""Patches: what the page puts together from them is the text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jet.ui.patches import LONG, Sent

PIECES = st.text(alphabet="ab \n\N{DRAGON}é", max_size=12)


def patched(before: str, patch: dict[str, int | str]) -> str:
    """What page.js makes of it, in UTF-16 units."""
    units = before.encode("utf-16-le")
    start, end, text = 2 * int(patch["from"]), 2 * int(patch["to"]), str(patch["text"])
    return (units[:start] + text.encode("utf-16-le") + units[end:]).decode("utf-16-le")


@given(PIECES, PIECES, PIECES, PIECES, PIECES)
def test_a_patch_makes_the_one_text_of_the_other(
    head: str, removed: str, added: str, tail: str, filling: str
) -> None:
    filling = (filling or "x") * LONG
    before, now = head + filling + removed + tail, head + filling + added + tail
    story, patch = Sent(before).news(now)
    assert story is None and patch is not None
    assert patched(before, patch) == now
    assert len(str(patch["text"])) <= len(added)


def test_a_short_story_is_sent_whole() -> None:
    assert Sent("x" * (LONG - 1)).news("new") == ("new", None)
