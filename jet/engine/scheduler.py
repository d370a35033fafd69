"""Scheduler: who is served when. Plain data; the engine holds its lock around every call.

A request waits for a place, reads its prompt, and writes. Prompts are read one after the other, in pieces;
all who write do so together, one token a step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

RequestT = TypeVar("RequestT", bound=Hashable)


class QueueFullError(Exception):
    """There is no room in the waiting line. The message is for who wanted to join it."""


class Scheduler(Generic[RequestT]):
    """First come, first served into `places`, but to each user no more than their share of them.

    Attributes:
        decoding: the jobs whose prompt has been read, in the order in which that happened.
        prefilling: the others that have a place; the first one is read.
        waiting: those without a place, in order of arrival.
    """

    def __init__(
        self,
        max_running_requests: int,
        max_running_per_user: int | None = None,
        max_waiting: int | None = None,
    ) -> None:
        """`max_waiting`: how many may wait. Jobs of the user "" are nobody's, and not counted together."""
        if max_running_requests < 1:
            raise ValueError(f"At least one request must be served at a time, not {max_running_requests}.")
        self._max_running_requests = max_running_requests
        self._max_running_per_user = (
            max_running_requests if max_running_per_user is None else max_running_per_user
        )
        self._max_waiting = max_waiting
        self._user_of: dict[RequestT, str] = {}
        self.decoding: list[RequestT] = []
        self.prefilling: list[RequestT] = []
        self.waiting: list[RequestT] = []

    @property
    def running(self) -> list[RequestT]:
        """Everyone who has a place."""
        return [*self.decoding, *self.prefilling]

    @property
    def requests(self) -> list[RequestT]:
        """Everyone here."""
        return [*self.running, *self.waiting]

    def add(self, request: RequestT, user: str = "") -> None:
        """A new request, at the end of the line. Raises QueueFullError if that is full."""
        self._user_of[request] = user
        self.waiting.append(request)
        if self._max_waiting is not None and self.position(request) > self._max_waiting:
            self.remove(request)
            raise QueueFullError(
                f"{self._max_waiting} stories are waiting already, and no more can: "
                "please try again in a moment."
            )

    def remove(self, request: RequestT) -> None:
        """A request that is done, wherever it stands; nothing happens if it is not here."""
        self._user_of.pop(request, None)
        for line in (self.decoding, self.prefilling, self.waiting):
            if request in line:
                line.remove(request)

    def next_admissible(self) -> RequestT | None:
        """Who may have a place now: of those whose user has not got enough, the one who waits longest."""
        return next(self._admissible(), None)

    def admit(self, request: RequestT) -> None:
        """Give the candidate its place."""
        self.waiting.remove(request)
        self.prefilling.append(request)

    def finish_prefill(self, request: RequestT) -> None:
        """The request's prompt has been read: it writes from now on."""
        self.prefilling.remove(request)
        self.decoding.append(request)

    def preempt(self, request: RequestT) -> None:
        """What the request had read is lost: it is the first to read."""
        self.decoding.remove(request)
        self.prefilling.insert(0, request)

    def position(self, request: RequestT) -> int:
        """0 for a request that has a place or finds one free, otherwise its place in line, from 1."""
        if request not in self.waiting:
            return 0
        admitted = set(self._admissible())
        behind = [other for other in self.waiting if other not in admitted]
        return behind.index(request) + 1 if request in behind else 0

    def _admissible(self) -> Iterator[RequestT]:
        """All who may have a place, if one after the other gets theirs."""
        if not self.waiting:  # as it is nearly always when this is asked
            return
        free = self._max_running_requests - len(self.decoding) - len(self.prefilling)
        running = Counter(self._user_of[request] for request in self.running)
        for request in self.waiting:
            user = self._user_of[request]
            if free and (not user or running[user] < self._max_running_per_user):
                free -= 1
                running[user] += 1
                yield request
