"""Apply what the writer typed, in the steps that Undo reverts one by one.

The page marks the steps: at the end of a sentence, around a paste, between typing and deleting, at another
place.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import islice

from jet.story.document import Document
from jet.story.errors import StoryError
from jet.story.json_fields import Fields
from jet.ui.deltas import apply_patch

MAX_STEPS = 200  # of one command: as many as Undo keeps


def apply_typed_edits(document: Document, fields: Fields, text: str) -> None:
    """Set the document's text to `text`, by way of the steps in `typed` if there are any.

    A step that does not fit ends the steps, not the command: `text` decides. Raises StoryError if `text`
        itself cannot
    be taken.
    """
    if fields.has("typed"):
        with suppress(StoryError):
            for plain, where in islice(fields.take_items("typed"), MAX_STEPS):
                document.edit(apply_patch(document.text, Fields(plain, where)))
    document.edit(text)
