"""Ending: extends a story past its requested length until a sentence, paragraph or scene ends.

Text past the requested length is still streamed. Only the text after a possible end is held back, a few
blanks or one token, since this text decides whether the sentence ends there (`"Stop!" he said`).
"""

from __future__ import annotations

from collections.abc import Callable

from jet.api import END_AT, Request, SamplingParams
from jet.engine.text.sentence_end import (
    CLOSERS,
    QUOTED,
    SENTENCE,
    TERMINATORS,
    End,
    last_end,
    may_break_scene,
    paragraph_ends,
    scene_ends,
    sentence_ends,
)

OVERRUN_TOKENS = 30  # most tokens past the asked length
PROMPT_CHARACTERS = 2_000  # of the end of the prompt that are looked at: its open quotation marks
KEPT_FRACTION = 0.5  # of the text that a cut back to a paragraph or scene must keep
_TELLING = set(TERMINATORS) | CLOSERS | set("\n;\u037e*_")

_FINDERS = {"sentence": sentence_ends, "paragraph": paragraph_ends, "scene": scene_ends}


class Ending:
    """Reads one answer and finds where to end it.

    Attributes:
        done: whether the end was found; later text is not shown.
        unfinished: the incomplete sentence at the end of the shown text, which may be cut off; set by
            `close`.
    """

    def __init__(self, end_at: str, prompt: str = "") -> None:
        """`end_at`: "sentence", "paragraph" or "scene". `prompt`: the text before the answer, or its end."""
        tail = prompt[-PROMPT_CHARACTERS:]
        self._end_at = end_at
        self._text = tail[tail.rfind("\n") + 1 :]
        self._start = len(self._text)
        self._shown = self._start
        self._limit: int | None = None  # characters when the asked length was reached
        self._undecided = False
        self.done = False
        self.unfinished = ""

    def push(self, text: str, past: float | None = None) -> str:
        """Add a part of the answer; return the text to be shown now.

        `past`: None if the answer is shorter than its requested length after this part. For the part that
        reaches this length, the fraction of the part that is needed to reach it, at most 1. For later parts,
        0.
        """
        if self.done:
            return ""
        begin = len(self._text)
        self._text += text
        if past is None:
            return self._show(len(self._text))
        if self._limit is None:
            self._limit = begin + int(len(text) * past)
        elif not self._undecided and _TELLING.isdisjoint(text):
            return self._show(len(self._text))
        return self._look()

    def close(self, rest: str = "", cut: bool = True) -> str:
        """Add the last part `rest` and end the answer; return the text still to be shown.

        `cut`: whether to set `unfinished`, if the answer ends with an incomplete sentence.
        """
        if self.done:
            return ""
        self._text += rest
        self.done = True
        shown = self._show(len(self._text))
        end = self._best_end() if cut else None
        if end is not None and end.position < len(self._text.rstrip()):
            self.unfinished = self._text[end.position :]
        return shown

    def _look(self) -> str:
        """Look for the end; return the text not shown yet, up to this end or else up to a possible end."""
        assert self._limit is not None
        # Behind the asked length and all shown words; blanks may have been shown already.
        least = max(self._start + 1, *(len(self._text[:at].rstrip()) for at in (self._limit, self._shown)))
        ends = [end for end in _FINDERS[self._end_at](self._text) if end.position >= least]
        certain = [end for end in ends if end.rank == SENTENCE and (end.settled or end.sure)]
        if certain:
            self.done = True
            return self._show(certain[0].position)
        maybe = [end.position for end in ends if end.rank == SENTENCE]
        line = self._text.rfind("\n") + 1
        if self._end_at == "scene" and may_break_scene(self._text[line:].strip()):
            maybe.append(len(self._text[:line].rstrip()))
        self._undecided = bool(maybe) or self._text[-1:].isspace()
        return self._show(min(maybe, default=len(self._text)))

    def _show(self, end: int) -> str:
        shown, self._shown = self._text[self._shown : end], max(self._shown, end)
        return shown

    def _best_end(self) -> End | None:
        kept = self._start + KEPT_FRACTION * (len(self._text) - self._start)
        units = END_AT[: END_AT.index(self._end_at) + 1][1:]
        for unit in reversed(units[1:]):
            found = last_end(_FINDERS[unit](self._text), self._start, SENTENCE)
            if found is not None and found.position >= kept:
                return found
        ends = sentence_ends(self._text)
        for rank in (SENTENCE, QUOTED):
            found = last_end(ends, self._start, rank)
            if found is not None and found.position >= kept:
                return found
        return last_end(ends, self._start, SENTENCE) or last_end(ends, self._start, QUOTED)


def overrun_tokens(sampling: SamplingParams) -> int:
    """Return how many tokens an answer may have beyond its requested length."""
    return 0 if sampling.end_at == "none" else OVERRUN_TOKENS


def make_ending(request: Request, token_text: Callable[[int], str] | None = None) -> Ending | None:
    """Make the ending of a request's answer; None if the request ends at its exact length.

    `token_text` returns the text of a token, for prompts of token ids.
    """
    if request.sampling.end_at == "none":
        return None
    prompt = request.prompt
    if request.prompt_ids and token_text is not None:
        prompt = "".join(map(token_text, request.prompt_ids[-PROMPT_CHARACTERS // 4 :]))
    return Ending(request.sampling.end_at, prompt)
