"""Align a stream's tokens with the characters that they added to the text.

The text of a stream is final when it arrives, but the texts of its tokens may not add up to it: a token that
ends inside a character has no valid text, some tokenizers drop a space, and text may be held back. So each
token's text is searched in the stream's text. Characters between two matches belong to the last unmatched
token between the matches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from jet.api import TokenLogprob, TokenLogprobs
from jet.story.pieces import REPLACEMENT, Token

_MAX_UNMATCHED_CHARACTERS = 8  # characters that a token without proper text may stand for
_MAX_PENDING = 64  # tokens: as many that are not found in the text are given up


class Aligner:
    """Aligns one stream incrementally."""

    def __init__(self) -> None:
        self._text = ""  # behind the last token that was found
        self._pending: list[TokenLogprobs] = []

    def add(self, text: str, details: Sequence[TokenLogprobs]) -> list[Token]:
        """Add a chunk; return the tokens whose numbers of characters are certain now."""
        self._text += text
        self._pending += details
        lengths = align(self._text, [detail.sampled.text for detail in self._pending])
        if len(self._pending) - len(lengths) > _MAX_PENDING:
            return self.finish()
        return self._release(lengths)

    def finish(self) -> list[Token]:
        """Return the remaining tokens at the end of the stream.

        The last token gets the rest of the text.
        """
        if not self._pending:
            return []
        lengths = align(self._text, [detail.sampled.text for detail in self._pending])
        if missing := len(self._pending) - len(lengths):
            lengths += [0] * (missing - 1) + [len(self._text) - sum(lengths)]
        return self._release(lengths)

    def _release(self, lengths: list[int]) -> list[Token]:
        released, self._pending = self._pending[: len(lengths)], self._pending[len(lengths) :]
        self._text = self._text[sum(lengths) :]
        return [_token(detail, length) for detail, length in zip(released, lengths, strict=True)]


def align(text: str, tokens: Sequence[str]) -> list[int]:
    """Return how many characters each token added to the text, up to the last token whose text is found.

    A token can be found if its text is not empty and has no replacement character.
    """
    lengths: list[int] = []
    at = unmatched = 0
    for token in tokens:
        limit = at + len(token) + _MAX_UNMATCHED_CHARACTERS * unmatched
        found = text.find(token, at, limit) if token and REPLACEMENT not in token else -1
        if found < 0:
            unmatched += 1
            continue
        if unmatched:
            lengths += [0] * (unmatched - 1) + [found - at]
        lengths.append(len(token))
        at, unmatched = found + len(token), 0
    return lengths


def _token(detail: TokenLogprobs, length: int) -> Token:
    alternatives = (_round(other) for other in detail.top_logprobs if math.isfinite(other.logprob))
    logprob = round(detail.sampled.logprob, 4) if math.isfinite(detail.sampled.logprob) else None
    return Token(detail.sampled.token_id, length, logprob, tuple(alternatives))


def _round(other: TokenLogprob) -> TokenLogprob:
    """Round a log-probability to four decimals, more than the page shows, to halve its size in files."""
    return TokenLogprob(other.token_id, other.text, round(other.logprob, 4))
