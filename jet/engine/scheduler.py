"""Scheduler: who is served when. Plain data; the engine holds its lock around every call.

A request waits for a place, reads its prompt, and writes. Prompts are read one after the other, in pieces;
all who write do so together, one token a step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Job = TypeVar("Job", bound=Hashable)


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
