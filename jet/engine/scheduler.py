"""Scheduler: who is served when. Plain data; the engine holds its lock around every call.

A request waits for a place, reads its prompt, and writes. Prompts are read one after the other, in pieces;
all who write do so together, one token a step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Job = TypeVar("Job", bound=Hashable)

# Pieces of prompts are this many tokens at least: shorter ones cost more than they help.
_SHORTEST_PIECE = 16
_FORGETTING = 0.9  # how much of the slowest speed so far is left after one more piece


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
    most, by what reading has taken so far, and as much time or a step goes to writing before the next one.
    """

    def __init__(self, largest: int, pause_s: float) -> None:
        self._largest, self._pause_s = largest, pause_s
        self._seconds_per_token: float | None = None
        self._next_read = 0.0
        self._read_last = False

    def may_read(self, now: float, others_write: bool) -> bool:
        """Whether it is the readers' turn."""
        return not others_write or (not self._read_last and now >= self._next_read)

    def piece(self, others_write: bool) -> int:
        """Tokens to read at once: the largest piece, halved until it is short enough."""
        piece = self._largest
        if others_write and self._seconds_per_token is not None:
            while piece > _SHORTEST_PIECE and piece * self._seconds_per_token > self._pause_s:
                piece //= 2
        return piece

    def have_read(self, tokens: int, seconds: float, now: float) -> None:
        """A piece has been read, which ended now. Short ones say little about long ones.

        The slower ones count for longer: what comes too late is worse than a piece that is too short, and a
        device that nobody had to wait for may have seemed fast.
        """
        if tokens >= min(_SHORTEST_PIECE, self._largest):
            before = self._seconds_per_token or 0.0
            self._seconds_per_token = max(seconds / tokens, _FORGETTING * before)
        self._next_read = now + seconds
        self._read_last = True

    def have_written(self) -> None:
        """A step has been made."""
        self._read_last = False
