"""Scheduler: who is served when. Plain data; the engine holds its lock around every call.

A request waits for a place, reads its prompt, and writes. Prompts are read one after the other, in pieces;
all who write do so together, one token a step.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Collection, Hashable, Iterator
from statistics import fmean, linear_regression
from typing import Generic, TypeVar

Job = TypeVar("Job", bound=Hashable)

# Pieces of prompts are this many tokens at least: shorter ones cost more than they help.
_SHORTEST_PIECE = 16
_REMEMBERED = 16  # pieces
_BARGAIN = 1.5  # times as long as the shortest piece


class QueueFullError(Exception):
    """There is no room in the waiting line. The message is for who wanted to join it."""


class Scheduler(Generic[Job]):
    """First come, first served into `places`, but to each user no more than their share of them.

    Attributes:
        writing: the jobs whose prompt has been read, in the order in which that happened.
        reading: the others that have a place; the first one is read.
        waiting: those without a place, in order of arrival.
    """

    def __init__(self, places: int, per_user: int | None = None, line: int | None = None) -> None:
        """`line`: how many may wait. Jobs of the user "" are nobody's, and not counted together."""
        if places < 1:
            raise ValueError(f"At least one request must be served at a time, not {places}.")
        self._places = places
        self._per_user = places if per_user is None else per_user
        self._line = line
        self._users: dict[Job, str] = {}
        self.writing: list[Job] = []
        self.reading: list[Job] = []
        self.waiting: list[Job] = []

    @property
    def running(self) -> list[Job]:
        """Everyone who has a place."""
        return [*self.writing, *self.reading]

    @property
    def jobs(self) -> list[Job]:
        """Everyone here."""
        return [*self.running, *self.waiting]

    def add(self, job: Job, user: str = "") -> None:
        """A new job, at the end of the line. Raises QueueFullError if that is full."""
        self._users[job] = user
        self.waiting.append(job)
        if self._line is not None and self.position(job) > self._line:
            self.remove(job)
            raise QueueFullError(
                f"{self._line} stories are waiting already, and no more can: please try again in a moment."
            )

    def remove(self, job: Job) -> None:
        """A job that is done, wherever it stands; nothing happens if it is not here."""
        self._users.pop(job, None)
        for line in (self.writing, self.reading, self.waiting):
            if job in line:
                line.remove(job)

    def candidate(self) -> Job | None:
        """Who may have a place now: of those whose user has not got enough, the one who waits longest."""
        return next(self._candidates(), None)

    def admit(self, job: Job) -> None:
        """Give the candidate its place."""
        self.waiting.remove(job)
        self.reading.append(job)

    def has_read(self, job: Job) -> None:
        """The job's prompt has been read: it writes from now on."""
        self.reading.remove(job)
        self.writing.append(job)

    def read_again(self, job: Job) -> None:
        """What the job had read is lost: it is the first to read."""
        self.writing.remove(job)
        self.reading.insert(0, job)

    def position(self, job: Job) -> int:
        """0 for a job that has a place or finds one free, otherwise its place in line, from 1."""
        if job not in self.waiting:
            return 0
        placed = set(self._candidates())
        behind = [other for other in self.waiting if other not in placed]
        return behind.index(job) + 1 if job in behind else 0

    def _candidates(self) -> Iterator[Job]:
        """All who may have a place, if one after the other gets theirs."""
        if not self.waiting:  # as it is nearly always when this is asked
            return
        free = self._places - len(self.writing) - len(self.reading)
        having = Counter(self._users[job] for job in self.running)
        for job in self.waiting:
            user = self._users[job]
            if free and (not user or having[user] < self._per_user):
                free -= 1
                having[user] += 1
                yield job


class Pace:
    """How much of a prompt is read at once, and when, so that those who write do not pause for long.

    Where nobody writes, the largest pieces are read one after the other. Otherwise a piece takes `pause_s` at
    most, by what the last ones took, and a third more once in a while, when a longer one is tried. As much
    time or a step goes to writing before the next one.
    """

    def __init__(self, largest: int, pause_s: float) -> None:
        self._largest, self._pause_s = largest, pause_s
        self._cost = PieceCost()
        self._next_read = 0.0
        self._read_last = False

    def may_read(self, now: float, others_write: bool) -> bool:
        """Whether it is the readers' turn."""
        return not others_write or (not self._read_last and now >= self._next_read)

    def piece(self, others_write: bool) -> int:
        """Tokens to read at once: the largest piece, halved until it is short enough."""
        piece = self._largest
        if not others_write or not self._cost.known:
            return piece
        most_s, shortest_s = self._pause_s, self._cost.seconds(_SHORTEST_PIECE)
        # Where even the quickest took too long, a piece that takes little longer is the better bargain.
        if self._cost.quickest > most_s and math.isfinite(shortest_s):
            most_s = max(most_s, _BARGAIN * shortest_s)
        while piece > _SHORTEST_PIECE and self._cost.seconds(piece) > most_s:
            piece = max(piece // 2, _SHORTEST_PIECE)
        return piece

    def have_read(self, tokens: int, seconds: float, now: float, settled: bool = True) -> None:
        """A piece has been read, which ended now. Before it has `settled`, nobody knows what it costs."""
        if settled:
            self._cost.add(tokens, seconds)
        self._next_read = now + seconds
        self._read_last = True

    def have_written(self) -> None:
        """A step has been made."""
        self._read_last = False


class PieceCost:
    """How long a piece of a prompt takes: so much in any case, and so much a token, by the last pieces.

    What is fixed is most of it for short ones, on a GPU and on a CPU. So the short end of a prompt must not
    be taken for the cost of its tokens. As much as the worst of the last pieces was off, the next may be.

    Attributes:
        quickest: what the quickest of the last pieces took, however short it was.
    """

    def __init__(self) -> None:
        self._pieces: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED)
        self._fixed, self._each, self._off = 0.0, 0.0, 1.0
        self.quickest = 0.0

    @property
    def known(self) -> bool:
        """Whether anything is."""
        return bool(self._pieces)

    def add(self, tokens: int, seconds: float) -> None:
        """A piece has taken so long."""
        self._pieces.append((tokens, seconds))
        self._fixed, self._each = fit_line(self._pieces)
        self.quickest = min(took for _, took in self._pieces)  # nothing takes less, whatever the line says
        self._off = max(took / (max(self._line(size), self.quickest) or 1.0) for size, took in self._pieces)

    def seconds(self, tokens: int) -> float:
        """What a piece may take; infinity if it is more than twice as long as any that is known.

        Where all were of one length, nobody knows what is fixed; for a longer one that is taken to be half.
        """
        sizes = {size for size, _ in self._pieces}
        if tokens > 2 * max(sizes) + 1:  # halves are rounded down
            return math.inf
        took = self._off * self._line(tokens)
        if len(sizes) == 1 and tokens > max(sizes):
            took = (took + took * max(sizes) / tokens) / 2
        return took

    def _line(self, tokens: int) -> float:
        return self._fixed + self._each * tokens


def fit_line(points: Collection[tuple[float, float]]) -> tuple[float, float]:
    """`(a, b)` of the line a + b x through points of positive numbers, by least squares, neither negative."""
    xs, ys = zip(*points, strict=True)
    proportional = 0.0, fmean(ys) / fmean(xs)
    if min(xs) == max(xs):
        return proportional
    slope, intercept = linear_regression(xs, ys)
    return (intercept, slope) if min(slope, intercept) >= 0 else proportional
