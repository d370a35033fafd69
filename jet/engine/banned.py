"""BannedGuard: holds back one request's tokens while a banned phrase may begin in them.

A token is sent as soon as no banned phrase can begin in it; a sent token is never taken back. When a phrase
is complete, the request returns to the token in which the phrase begins and draws a different one. The guard
tracks the held tokens; `OutputProcessor` sends them, or removes them and draws again. Uses no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from jet.api import RequestError, TokenLogprobs
from jet.engine.text.banned_phrases import BannedPhraseError, PhraseMatcher, State
from jet.engine.text.detokenizer import Detokenizer

MAX_ATTEMPTS = 32  # tokens barred in one place before the request goes further back or ends
MAX_ROLLBACKS = 256  # without anything sent in between


@dataclass(eq=False, slots=True)
class HeldToken:
    """A drawn token that has not been sent, with the request's state before the token was added.

    Attributes:
        token: its id.
        text: the text that became final with it.
        logprobs: its log-probabilities, to be sent with it.
        index: its position in the request's output tokens; 0 for tokens drawn by healing.
        detokenizer: a copy of the detokenizer before this token was added.
        state: the matcher's state before this token was read.
    """

    token: int
    text: str
    logprobs: tuple[TokenLogprobs, ...]
    index: int
    detokenizer: Detokenizer
    state: State


class BannedGuard:
    """Holds back the tokens of one request while they may have to be drawn again."""

    def __init__(self, matcher: PhraseMatcher, before: str, vocabulary: int | None = None) -> None:
        """`before`: the text before the answer.

        `vocabulary`: the number of tokens that can be drawn; None if unknown.
        """
        self.held: list[HeldToken] = []
        self._matcher, self._state = matcher, matcher.start(before)
        self._barred: dict[int, tuple[int, ...]] = {}
        self._rollbacks = 0
        self._max_attempts = MAX_ATTEMPTS if vocabulary is None else min(MAX_ATTEMPTS, vocabulary - 2)

    def push(
        self,
        token: int,
        text: str,
        logprobs: tuple[TokenLogprobs, ...],
        index: int,
        detokenizer: Detokenizer,
    ) -> int | None:
        """Hold a token; return where the banned phrase that it completes begins.

        The arguments are the attributes of `HeldToken`. Returns the index in `held` of the phrase's first
        token; None if the token completes no phrase.
        """
        self.held.append(HeldToken(token, text, logprobs, index, detokenizer, self._state))
        self._state, start = self._matcher.advance(self._state, text)
        return None if start is None else self._holder_of(start)

    def banned_if_ended(self) -> int | None:
        """Return the index in `held` of the first token of a phrase that the end of the text would complete.

        Returns None if there is no such phrase.
        """
        start = self._state.banned_if_ended
        return None if start is None or not self.held else self._holder_of(start)

    def release(self) -> list[HeldToken]:
        """Remove and return the tokens in which no phrase can begin."""
        start = self._state.held_from
        if start is not None:
            return self._send(self._holder_of(start))
        count = len(self.held)
        while count and not self.held[count - 1].text:
            count -= 1  # the first bytes of a character, perhaps
        return self._send(count)

    def release_all(self) -> list[HeldToken]:
        """Remove and return all tokens."""
        return self._send(len(self.held))

    def choose(self, number: int) -> tuple[int, tuple[int, ...]] | None:
        """Decide where to draw again after a complete phrase that begins in `held[number]`.

        Returns the index in `held` of the token to draw again, and the tokens barred there; None after too
        many failed attempts.
        """
        self._rollbacks += 1
        for place in (number, 0):
            one = self.held[place]
            barred = (*self._barred.get(one.index, ()), one.token)
            if len(barred) <= self._max_attempts and self._rollbacks <= MAX_ROLLBACKS:
                self._barred = {at: tokens for at, tokens in self._barred.items() if at < one.index}
                self._barred[one.index] = barred
                return place, barred
        return None

    def take_back(self, number: int) -> HeldToken:
        """Remove `held[number]` and all later tokens, and return `held[number]`."""
        one = self.held[number]
        del self.held[number:]
        self._state = one.state
        return one

    def _send(self, count: int) -> list[HeldToken]:
        sent, self.held = self.held[:count], self.held[count:]
        if sent:
            self._rollbacks = 0
            self._barred = {at: tokens for at, tokens in self._barred.items() if at > sent[-1].index}
        return sent

    def _holder_of(self, start: int) -> int:
        """Return the index in `held` of the first token of the character at `start` in the answer.

        Returns 0 if that token has been sent.
        """
        number = max((at for at, one in enumerate(self.held) if one.state.position <= start), default=0)
        while number and not self.held[number - 1].text:
            number -= 1
        return number


@lru_cache(16)
def matcher_of(banned: tuple[str, ...], stops: tuple[str, ...]) -> PhraseMatcher:
    """Return the matcher of a request's banned phrases and stop strings.

    Raises RequestError if a phrase cannot be banned.
    """
    try:
        return PhraseMatcher(banned, stops)
    except BannedPhraseError as error:
        raise RequestError(str(error)) from None


def text_before(prompt: str, ids: Sequence[int], detokenizer: Detokenizer, matcher: PhraseMatcher) -> str:
    """Return the text before an answer, in which a banned phrase may begin.

    Args:
        prompt: the prompt as text, which is returned if there are no `ids`.
        ids: the token ids of a prompt that was given as ids. As many of the last ones as `matcher` needs are
            converted to text.
        detokenizer: converts the ids; no token must have been added to it before.
        matcher: the request's matcher.
    """
    if not ids:
        return prompt
    return "".join(map(detokenizer.push, map(int, ids[-(matcher.reach + 1) :])))
