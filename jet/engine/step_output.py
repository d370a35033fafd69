"""What a decode step gives: the token of each row, and what was noted of it."""

from __future__ import annotations

from collections import abc
from typing import NamedTuple, Protocol

from torch import Tensor


class Detail(NamedTuple):
    """The log-probability of a token, and the likeliest tokens in its place with theirs, likeliest first."""

    logprob: float
    ids: list[int]
    logprobs: list[float]


class Pending(Protocol):
    """A step of some rows that has been launched."""

    def token(self, row: int) -> int:
        """The token of a row; waits for it. Raises FloatingPointError if the network's output is NaN."""
        ...

    def detail(self, row: int) -> Detail | None:
        """What was noted of the token; None if nothing. Only after `token()`."""
        ...


class Arriving(NamedTuple):
    """One row of a step."""

    pending: Pending
    row: int

    def token(self) -> int:
        """As of the step."""
        return self.pending.token(self.row)

    def detail(self) -> Detail | None:
        """As of the step."""
        return self.pending.detail(self.row)


class _Token(NamedTuple):
    token: int
    detail: Detail | None


class Drawn:
    """A step that is over."""

    def __init__(self, rows: abc.Sequence[_Token | FloatingPointError]) -> None:
        self._rows = rows

    def token(self, row: int) -> int:
        """The token of a row."""
        return self._of(row).token

    def detail(self, row: int) -> Detail | None:
        """What was noted of it."""
        return self._of(row).detail

    def _of(self, row: int) -> _Token:
        found = self._rows[row]
        if isinstance(found, FloatingPointError):
            raise found
        return found


def detail_of(noted: tuple[Tensor, Tensor, Tensor], row: int = 0, count: int | None = None) -> Detail:
    """What `jet.ops.logprobs.alternatives` says of a row, the first `count` of it, as plain numbers."""
    logprob, ids, logprobs = noted
    return Detail(float(logprob[row]), ids[row, :count].tolist(), logprobs[row, :count].tolist())
