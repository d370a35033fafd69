"""The Never write control: banned phrases, one a line, and a choice of ready lists."""

from __future__ import annotations

from jet.engine.banned_lists import banned_phrases, ready_lists
from jet.story.json_fields import Fields
from jet.ui.rendering import render

ENDED_BEFORE = (
    "The story stops here: whichever way it was to go on, there came something that you never want written. "
    "Write a few words yourself, or take something off the list, and continue."
)


def control() -> str:
    """Render the control as HTML."""
    return render("never_write.html", "control", lists=ready_lists())


def parse_banned(fields: Fields) -> tuple[str, ...]:
    """Parse the banned phrases of a command, with those of the chosen lists; empty if it has none.

    Raises RequestError or StoryError.
    """
    given = ("banned", "banned_lists")
    own, lists = ([text for text, _ in fields.take_items(name)] if fields.has(name) else [] for name in given)
    return banned_phrases([text.strip() if isinstance(text, str) else text for text in own], lists)
