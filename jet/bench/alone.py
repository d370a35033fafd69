"""Stories that many wrote at once beside the same ones written alone, token by token.

In half precision the size of a batch decides how a sum is rounded. So the log-probability of a token is a
little off, and of two tokens that are nearly as likely another one comes first. How far it is off is measured
where both still write the same tokens. For a token to be another one, two log-probabilities have to err
towards each other, so up to twice that is a near tie; more is a mistake.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jet.bench.options import BenchError
from jet.bench.requests import finished, request
from jet.engine.types import MAX_ALTERNATIVES, Engine, SamplingParams, TokenDetail


@dataclass(frozen=True)
class Story:
    """What was written after a prompt, and the log-probability of every token of it."""

    prompt: list[int]
    tokens: list[int]
    logprobs: list[float]


class Alone:
    """Writes stories again, alone and afresh.

    Attributes:
        error: how far a log-probability has been off at most, of all stories so far.
    """

    def __init__(self, engine: Engine, sampling: SamplingParams) -> None:
        self._engine, self._sampling = engine, sampling
        self.error = 0.0

    def compare(self, stories: Sequence[Story]) -> dict[str, float]:
        """The share of stories that differ, the largest margin of those, and the error.

        Raises BenchError if a margin is more than rounding explains.
        """
        found = [compare(story, self._write(story)) for story in stories]
        self.error = max([self.error, *(error for error, _ in found)])
        margins = [margin for _, margin in found if margin is not None]
        largest = max(margins, default=0.0)
        if largest > 2 * self.error:
            raise BenchError(
                f"A story is not what it is alone: its first token that is another one is {largest:.3g} less "
                f"likely there in log-probability, and rounding makes up to {self.error:.3g}, or twice that."
            )
        return {"differing": len(margins) / len(found), "margin": largest, "error": self.error}

    def _write(self, story: Story) -> list[TokenDetail]:
        sampling = replace(self._sampling, max_new_tokens=len(story.tokens))
        asked = replace(request(story.prompt, sampling), alternatives=MAX_ALTERNATIVES)
        chunks = list(self._engine.submit(asked))
        finished(chunks[-1], len(story.tokens))
        return [detail for chunk in chunks for detail in chunk.details]


def compare(story: Story, alone: Sequence[TokenDetail]) -> tuple[float, float | None]:
    """How far log-probabilities are apart up to the first token that is another one, and its margin.

    That is how much less likely it is, alone, than the one written there; None where all are the same.
    """
    error = 0.0
    for token, logprob, detail in zip(story.tokens, story.logprobs, alone, strict=True):
        if detail.drawn.token_id != token:
            return error, detail.drawn.logprob - _logprob(token, detail)
        error = max(error, abs(detail.drawn.logprob - logprob))
    return error, None


def _logprob(token: int, detail: TokenDetail) -> float:
    """Of a token in a place. One that is not among the likeliest there is taken for impossible."""
    return next((one.logprob for one in detail.alternatives if one.token_id == token), -math.inf)
