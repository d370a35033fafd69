"""TokenBudget: how many tokens a server accepts, learned from its counts and from its error messages.

Some servers shorten an answer to fit their context; others reject a request whose prompt and `max_tokens`
together exceed it. Only the server knows a prompt's exact number of tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

BYTES_PER_TOKEN = 3  # for a high estimate: English has more, other scripts about as many

_MOST_BYTES_PER_TOKEN = 8  # for a low estimate
_LEAST_CONTEXT = 16  # tokens; a smaller number in an error message means something else
_MARGIN = 8  # tokens added to a prediction from the last prompt
_NUMBER = r"(\d[\d,_]*)"
_CONTEXT = [
    rf"\d \+ \d[\d,_]* > {_NUMBER}",
    rf"context[^.\d]{{0,60}}?{_NUMBER}",
    rf"{_NUMBER}[- ]*(?:tokens? )?(?:of )?(?:maximum |max )?context",
    rf"(?:max_model_len|n_ctx|max_seq_len|max_total_tokens|sequence length)[^.\d]{{0,30}}?{_NUMBER}",
    rf"\+ `?max_(?:new_)?tokens`?\"? must be (?:<=|less than or equal to|at most) {_NUMBER}",
    rf"(?:session length|should not exceed \w+|tokens allowed|limit for this model is) \(?{_NUMBER}",
    rf"> {_NUMBER} maximum",
    rf"(?:longer|larger|more) than (?:the )?(?:maximum|limit)[^.\d]{{0,40}}?{_NUMBER}",
]
_PROMPT = [
    rf"{_NUMBER} \+ \d[\d,_]* > \d",
    rf"n_prompt_tokens {_NUMBER}",
    rf"{_NUMBER} (?:tokens )?of (?:text )?(?:input|prompt)",
    rf"(?:prompt|inputs?)(?:_| token | )?\(?(?:length|len|count) \(?{_NUMBER}",
    rf"keep the first {_NUMBER} tokens",
    rf"{_NUMBER}(?: tokens?)? (?:are |were )?(?:in|from|of|for) (?:the |your )?(?:prompt|messages|inputs?)",
    rf"{_NUMBER} (?:`?inputs?`?|prompt|text)[- ]tokens?",
    rf"(?:prompt|inputs?)`? ?(?:contains|has|have|is|of|:|=|length)+ ?(?:is |of |: ?)?{_NUMBER}",
    rf"(?:request|prompt|inputs?) \({_NUMBER} tokens\)",
    rf"too long: {_NUMBER}",
]
_TOTAL = [
    rf"request(?:ed|s|ing)?:? (?:a total of |total )?{_NUMBER} tokens",
    rf"total (?:of |is |token count (?:of |is )?)?{_NUMBER}",
    rf"requested tokens \({_NUMBER}\)",
]
_MOST_NEW = [
    rf"at most {_NUMBER} (?:completion|output|new) tokens",
    rf"max(?:imum)?(?:_| )?(?:new_|completion_|output_)?(?:tokens|length)[^.]*? must be "
    rf"(?:<=|less than or equal to|at most|between \d+ and|in \[\d+,) ?`?{_NUMBER}",
    rf"range of `?max_\w*tokens`? is \[\d+, ?{_NUMBER}\]",
    rf"> {_NUMBER}, which is the maximum",
]


@dataclass(frozen=True)
class RefusedLimits:
    """The limits in a server's error message, in tokens; None for those it does not contain.

    Attributes:
        context: most tokens of prompt and answer together.
        prompt: tokens of the prompt that was sent.
        most_new: most tokens of an answer, whatever the prompt.
    """

    context: int | None = None
    prompt: int | None = None
    most_new: int | None = None

    @property
    def anything(self) -> bool:
        """Return whether the message contains a limit: `context` or `most_new`."""
        return (self.context or self.most_new) is not None


def read_refusal(words: str, max_tokens: int) -> RefusedLimits:
    """Return the limits in an error message, which answers a request for `max_tokens` new tokens."""
    text = " ".join(words.split()).lower()
    if not re.search(r"context|token|length|n_ctx", text):
        return RefusedLimits()
    context, prompt = _first(_CONTEXT, text), _first(_PROMPT, text)
    total = _first(_TOTAL, text)
    if prompt is None and total is not None:
        prompt = total - max_tokens if total > max_tokens else total
    most_new = None if context is not None else _first(_MOST_NEW, text)
    return RefusedLimits(context if context and context >= _LEAST_CONTEXT else None, prompt, most_new)


def _first(patterns: list[str], text: str) -> int | None:
    for pattern in patterns:
        if (found := re.search(pattern, text)) is not None:
            return int(re.sub(r"[,_]", "", found[1]))
    return None


def estimate_tokens(text: str) -> int:
    """Estimate the number of tokens of a text; the estimate is rather too high than too low."""
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)


class TokenBudget:
    """The known limits of one server, and the token count of its last prompt."""

    def __init__(self, context: int | None) -> None:
        self.context = context
        self.most_new: int | None = None
        self._counted: tuple[int, int] | None = None  # bytes and tokens of the last counted prompt

    def count(self, prompt: str, tokens: int) -> None:
        """Record the server's token count of a prompt."""
        if tokens > 0 and prompt:
            self._counted = len(prompt.encode("utf-8", "replace")), tokens

    def afford(self, prompt: str, wanted: int) -> int:
        """Return how many new tokens to ask for: `wanted`, or as many as the server accepts with this prompt.

        Returns at least 1, since the limits are partly estimates.
        """
        most = wanted if self.most_new is None else min(wanted, self.most_new)
        if self.context is not None:
            most = min(most, self.context - self._expected(prompt))
        return max(1, most)

    def after(self, words: str, prompt: str, asked: int) -> int | None:
        """Return how many new tokens to ask for after a rejected request; None if fewer would not help.

        The limits in the error message are recorded.

        Args:
            words: the server's error message.
            prompt: the prompt of the rejected request.
            asked: the number of new tokens that the rejected request asked for.
        """
        said = read_refusal(words, asked)
        self.context = said.context or self.context
        self.most_new = said.most_new or self.most_new
        if said.prompt is not None:
            self.count(prompt, said.prompt)
        if said.context is None and said.most_new is not None:
            room = said.most_new
        elif self.context is not None:
            room = self.context - (estimate_tokens(prompt) if said.prompt is None else said.prompt)
            if not said.anything and room >= asked:
                return None  # the message is about something else
        else:
            return None
        return room if 1 <= room < asked else None

    def _expected(self, prompt: str) -> int:
        size = len(prompt.encode("utf-8", "replace"))
        if self._counted is None:
            return size // _MOST_BYTES_PER_TOKEN
        counted, tokens = self._counted
        return min(-(-size * tokens // counted) + _MARGIN, estimate_tokens(prompt))
