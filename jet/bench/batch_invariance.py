"""BatchInvarianceCheck: compares stories decoded in a batch with the same stories decoded alone.

In half precision the batch size affects how sums are rounded, so log-probabilities differ slightly. Of two
tokens that are nearly equally likely, a batch may then choose the other one.

The error is the difference between the two runs' log-probabilities of a token, measured at the positions
before the runs differ. Two tokens can swap when one errs upward and the other downward. A gap of up to twice
the largest error therefore counts as a near tie. The largest error is only an estimate, from some hundred
tokens, so 1.5 times that gap is allowed. A larger gap is a bug. With few tokens, the estimate is too
uncertain for a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jet.api import MAX_TOP_LOGPROBS, Engine, SamplingParams, TokenLogprobs
from jet.bench.options import BenchError
from jet.bench.requests import check_finished, token_request

MIN_SHARED_TOKENS = 100  # tokens, of which the largest error is known well enough
NEAR_TIE_FACTOR = 3  # times that


@dataclass(frozen=True)
class Completion:
    """A generated completion: its prompt, its tokens and their log-probabilities."""

    prompt: list[int]
    tokens: list[int]
    logprobs: list[float]


class BatchInvarianceCheck:
    """Decodes stories again, alone and without cached prefixes, and compares them.

    The attributes are over all stories so far.

    Attributes:
        error: the largest absolute difference between the log-probabilities of a token.
        shared: the number of tokens that `error` was measured on.
        margin: the largest gap between the log-probabilities of the two tokens at which a story first
            differs; both log-probabilities are those of the story decoded alone.
    """

    def __init__(self, engine: Engine, sampling: SamplingParams) -> None:
        self._engine, self._sampling = engine, sampling
        self.error, self.shared, self.margin = 0.0, 0, 0.0

    def compare(self, completions: Sequence[Completion]) -> dict[str, float]:
        """Compare completions with the same ones decoded alone; return "differing", "margin" and "error".

        "differing" is the fraction of these completions that differ. "margin" and "error" are the attributes,
        which are over all completions so far. Raises BenchError if the margin is larger than rounding
        explains.
        """
        margins = []
        for completion in completions:
            errors, margin = compare(completion, self._regenerate(completion))
            self.error, self.shared = max([self.error, *errors]), self.shared + len(errors)
            margins += [] if margin is None else [margin]
        self.margin = max([self.margin, *margins])
        if self.shared >= MIN_SHARED_TOKENS and self.margin > NEAR_TIE_FACTOR * self.error:
            raise BenchError(
                "A story differs from the same one written alone, and not by a near tie: its first other "
                f"token is {self.margin:.3g} less likely there (log-probability), where rounding explains "
                f"{NEAR_TIE_FACTOR} x {self.error:.3g}."
            )
        return {
            "differing": len(margins) / max(1, len(completions)),
            "margin": self.margin,
            "error": self.error,
        }

    def _regenerate(self, completion: Completion) -> list[TokenLogprobs]:
        sampling = replace(self._sampling, max_new_tokens=len(completion.tokens))
        repeat = replace(token_request(completion.prompt, sampling), top_logprobs=MAX_TOP_LOGPROBS)
        chunks = list(self._engine.submit(repeat))
        check_finished(chunks[-1], len(completion.tokens))
        return [detail for chunk in chunks for detail in chunk.logprobs]


def compare(completion: Completion, reference: Sequence[TokenLogprobs]) -> tuple[list[float], float | None]:
    """Return the absolute differences of log-probabilities before the first different token, and the margin.

    The margin is the gap between the log-probabilities of the two different tokens, decoded alone. It is None
    if no token differs.
    """
    errors: list[float] = []
    for token, logprob, detail in zip(completion.tokens, completion.logprobs, reference, strict=True):
        if detail.sampled.token_id != token:
            return errors, detail.sampled.logprob - _logprob(token, detail)
        errors.append(abs(detail.sampled.logprob - logprob))
    return errors, None


def _logprob(token: int, detail: TokenLogprobs) -> float:
    """Return a token's log-probability at a position; -inf where it is not in the top logprobs."""
    return next((one.logprob for one in detail.top_logprobs if one.token_id == token), -math.inf)
