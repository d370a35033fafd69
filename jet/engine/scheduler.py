"""Scheduler: who is served when. Plain data; the engine holds its lock around every call."""

from __future__ import annotations

from typing import Generic, TypeVar

Job = TypeVar("Job")


class Scheduler(Generic[Job]):
    """First come, first served into `places`; those who have one are served by turns.

    Attributes:
        running: the jobs that have a place, the one whose turn is next first.
        waiting: the others, in order of arrival.
    """

    def __init__(self, places: int) -> None:
        if places < 1:
            raise ValueError(f"At least one request must be served at a time, not {places}.")
        self._places = places
        self.running: list[Job] = []
        self.waiting: list[Job] = []

    @property
    def jobs(self) -> list[Job]:
        """Everyone here."""
        return [*self.running, *self.waiting]

    def add(self, job: Job) -> None:
        """A new job, at the end of the line."""
        self.waiting.append(job)

    def remove(self, job: Job) -> None:
        """A job that is done, wherever it stands; nothing happens if it is not here."""
        for line in (self.running, self.waiting):
            if job in line:
                line.remove(job)

    def admit(self) -> list[Job]:
        """Give free places to those who wait longest; returns them."""
        free = self._places - len(self.running)
        admitted, self.waiting = self.waiting[:free], self.waiting[free:]
        self.running += admitted
        return admitted

    def next(self) -> Job | None:
        """The job whose turn it is; it goes behind the others that have a place."""
        if not self.running:
            return None
        job = self.running.pop(0)
        self.running.append(job)
        return job

    def position(self, job: Job) -> int:
        """0 for a job that has a place or finds one free, otherwise its place in line, from 1."""
        if job not in self.waiting:
            return 0
        free = self._places - len(self.running)
        return max(0, self.waiting.index(job) + 1 - free)
