"""StepFuture: the next token of one row of a launched decode step, with its log-probabilities."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NoReturn

from torch import Tensor

from jet.api import TokenLogprob, TokenLogprobs


class StepFuture:
    """The next token of one sequence, which the device may still be computing."""

    def __init__(self, wait: Callable[[], tuple[int, TokenLogprobs | None]]) -> None:
        """`wait` blocks until the step has finished; `result` returns its value."""
        self._wait = wait

    @classmethod
    def completed(cls, compute: Callable[[], tuple[int, TokenLogprobs | None]]) -> StepFuture:
        """Call `compute` at once; return a future of its result or FloatingPointError."""
        try:
            result = compute()
        except FloatingPointError as error:
            return cls(partial(_raise, error))
        return cls(lambda: result)

    def result(self) -> tuple[int, TokenLogprobs | None]:
        """Wait for the token; return it and its log-probabilities, or None if none were requested.

        Raises FloatingPointError if the sequence's logits are NaN.
        """
        return self._wait()


def token_logprobs(
    token: int, noted: tuple[Tensor, Tensor, Tensor], row: int = 0, count: int | None = None
) -> TokenLogprobs:
    """Convert one row of `noted`, the result of `jet.ops.logprobs.top_logprobs`, to plain numbers.

    Keeps the `count` likeliest tokens, by default all. Texts are left empty; the engine adds them.
    """
    logprob, ids, logprobs = noted
    pairs = zip(ids[row, :count].tolist(), logprobs[row, :count].tolist(), strict=True)
    top = tuple(TokenLogprob(id, "", value) for id, value in pairs)
    return TokenLogprobs(TokenLogprob(token, "", float(logprob[row])), top)


def _raise(error: FloatingPointError) -> NoReturn:
    raise error
