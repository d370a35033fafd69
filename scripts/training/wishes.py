"""Sentences with which a writer asks for a length or an end, worded as the rest of a text will turn out."""

from __future__ import annotations

import numpy as np

from scripts.training.words import draw, read_list

SHORT_WORDS = 450  # up to which a text may be called short, and its end near


def ending(words: int, rng: np.random.Generator) -> str:
    """Return a sentence that asks for the text to end after about `words` more words."""
    if words <= SHORT_WORDS and rng.random() < 0.65:
        return draw(read_list("soon"), rng)
    return draw(read_list("within"), rng).format(n=_round(words))


def length(words: int, rng: np.random.Generator) -> str:
    """Return a sentence that asks for a whole text of about `words` words."""
    if words <= SHORT_WORDS and rng.random() < 0.4:
        return draw(read_list("short"), rng)
    return draw(read_list("lengths"), rng).format(n=_round(words))


def _round(words: int) -> int:
    step = 10 if words < 100 else 50 if words < 700 else 100
    return max(step, round(words / step) * step)
