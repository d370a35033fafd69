"""Takes over what the writer typed, in the steps that Undo is to take back one by one.

The page says where each step ends, since only the page knows: at the end of a sentence, before and after a
paste, where typing gives way to deleting, where the writer goes on at another place.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import islice

from jet.story.document import Document
from jet.story.errors import StoryError
from jet.story.json_fields import Fields
from jet.ui.deltas import apply_patch

MAX_STEPS = 200  # of one order: as many as Undo remembers


def apply_typed_edits(document: Document, fields: Fields, text: str) -> None:
    """Make `text` the text on the page, by way of the steps in `typed`, if the order has any.

    A step that does not fit the text here ends the steps, not the order: `text` decides. Raises StoryError
    where `text` itself cannot be taken over.
    """
    if fields.has("typed"):
        with suppress(StoryError):
            for plain, where in islice(fields.take_items("typed"), MAX_STEPS):
                document.edit(apply_patch(document.text, Fields(plain, where)))
    document.edit(text)
