"""Apply the writer's typing as several steps, which Undo reverts one by one.

The page separates the steps: at the end of a sentence, around a paste, between typing and deleting, and when
the caret has moved.
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
    """Set the document's text to `text`, in the steps of the command's field `typed`.

    If a step does not fit the text, the remaining steps are skipped and the text becomes `text` in one step.
    Raises StoryError if the document cannot have `text` now, for example because it is too long.
    """
    if fields.has("typed"):
        with suppress(StoryError):
            for plain, where in islice(fields.take_items("typed"), MAX_STEPS):
                document.edit(apply_patch(document.text, Fields(plain, where)))
    document.edit(text)
