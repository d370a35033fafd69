"""Blanks at the border between a prompt and what another server writes: sent to nobody, shown once."""

from __future__ import annotations

from dataclasses import replace

from jet.api import TokenLogprobs
from jet.engine.text.whitespace import strip_leading


class WhitespaceBoundary:
    """Takes the blanks off an answer's beginning where the prompt was sent without those at its end."""

    def __init__(self, typed: str, sent: str) -> None:
        self._begun = typed == sent  # from then on blanks are the answer's own

    def cut(self, text: str, details: tuple[TokenLogprobs, ...]) -> tuple[str, tuple[TokenLogprobs, ...]]:
        """What to show of a piece and its tokens."""
        if self._begun or not text:
            return text, details
        shown = strip_leading(text)
        self._begun = shown != ""
        off, changed = len(text) - len(shown), []
        for detail in details:
            drawn, others = detail.sampled, detail.top_logprobs
            known = text.startswith(drawn.text)
            less = min(off, len(drawn.text)) if known else 0
            if less:
                others = tuple(replace(one, text=strip_leading(one.text)) for one in others)
            changed.append(TokenLogprobs(replace(drawn, text=drawn.text[less:]), others))
            text, off = text[len(drawn.text) :] if known else "", off - less
        return shown, tuple(changed)
