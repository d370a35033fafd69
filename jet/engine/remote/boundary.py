"""WhitespaceBoundary: removes leading blanks from an answer if the typed prompt already ends in a blank."""

from __future__ import annotations

from dataclasses import replace

from jet.api import TokenLogprobs
from jet.engine.text.whitespace import strip_leading


class WhitespaceBoundary:
    """Strips leading blanks from an answer whose prompt was sent without its trailing blanks."""

    def __init__(self, typed: str, sent: str) -> None:
        self._begun = typed == sent  # whether blanks belong to the answer now

    def strip(self, text: str, logprobs: tuple[TokenLogprobs, ...]) -> tuple[str, tuple[TokenLogprobs, ...]]:
        """Return a chunk's text and log-probabilities without the leading blanks of the answer."""
        if self._begun or not text:
            return text, logprobs
        shown = strip_leading(text)
        self._begun = shown != ""
        off, changed = len(text) - len(shown), []
        for one in logprobs:
            drawn, others = one.sampled, one.top_logprobs
            known = text.startswith(drawn.text)
            less = min(off, len(drawn.text)) if known else 0
            if less:
                others = tuple(replace(other, text=strip_leading(other.text)) for other in others)
            changed.append(TokenLogprobs(replace(drawn, text=drawn.text[less:]), others))
            text, off = text[len(drawn.text) :] if known else "", off - less
        return shown, tuple(changed)
