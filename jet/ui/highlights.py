"""Compute the page's highlights: the author of words, and the model's confidence in its own words.

Highlights are flat lists of `start, end, level` with offsets in UTF-16 units; level 0 is the model's text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from jet.story.document import Document
from jet.ui.commands import Highlight

# Probabilities below which a token counts as doubtful, and more so, and more.
_CONFIDENCE_LEVELS = (0.5, 0.2, 0.05)


def authorship(document: Document) -> list[int]:
    """Return the highlights of the model's text, with adjacent spans joined."""
    model = ((start, end, 0) for start, end, author, _ in document.ranges() if author == "model")
    return _flatten(document.text, model)


def latest(document: Document) -> list[int]:
    """Return the highlights of the model's latest continuation; the text may have it in several places."""
    model = [one for one in document.ranges() if one.author == "model"]
    span = max((one.span for one in model), default=None)
    return _flatten(document.text, ((one.start, one.end, 0) for one in model if one.span == span))


def confidence(document: Document) -> list[int]:
    """Return the highlights of unlikely tokens of the model. Level 3 is the least likely, 1 the likeliest."""
    found = []
    for start, end, _, token in document.tokens():
        level = (
            0
            if token.logprob is None
            else sum(math.exp(token.logprob) < threshold for threshold in _CONFIDENCE_LEVELS)
        )
        if level:
            found.append((start, end, level))
    return _flatten(document.text, found)


def _flatten(text: str, ranges: Iterable[tuple[int, int, int]]) -> list[int]:
    """Join adjacent ranges of one level, and convert their offsets to UTF-16 units.

    `ranges`: (start, end, level), in the order of the text.
    """
    joined: list[list[int]] = []
    for start, end, level in ranges:
        if joined and joined[-1][1:] == [start, level]:
            joined[-1][1] = end
        else:
            joined.append([start, end, level])
    flat: list[int] = []
    at = units = 0
    for start, end, level in joined:
        for place in (start, end):
            # Only what stands between two places is measured, so a long story is gone through once.
            piece = text[at:place]
            units += len(piece) if piece.isascii() else len(piece.encode("utf-16-le")) // 2
            at = place
            flat.append(units)
        flat.append(level)
    return flat


HIGHLIGHTS: dict[Highlight, Callable[[Document], list[int]]] = {
    "plain": lambda _: [],
    "latest": latest,
    "authorship": authorship,
    "confidence": confidence,
}
