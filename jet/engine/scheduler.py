"""Scheduler: which request runs when. Plain data; the engine holds its lock around every call.

A request waits, is admitted, prefills and decodes. Prompts are prefilled in chunks, in the order in which the
requests were admitted. All decoding requests form one batch, which draws one token of each in a step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

RequestT = TypeVar("RequestT", bound=Hashable)


class QueueFullError(Exception):
    """The waiting queue is full. The message is for the user."""


class Scheduler(Generic[RequestT]):
    """First come, first served, up to a number of running requests in total and per user.

    Attributes:
        decoding: requests whose prompt has been prefilled, in the order in which their prefills ended.
        prefilling: admitted requests whose prompt has not been prefilled; the first one is next.
        waiting: requests that have not been admitted, in order of arrival.
    """

    def __init__(
        self,
        max_running_requests: int,
        max_running_per_user: int | None = None,
        max_waiting: int | None = None,
    ) -> None:
        """Create an empty queue.

        Args:
            max_running_requests: most admitted requests; at least 1.
            max_running_per_user: most admitted requests of one user, except for the user "", who has no limit
                of its own; None for no limit.
            max_waiting: most requests in the queue; None for no limit.
        """
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
        """Return all admitted requests."""
        return [*self.decoding, *self.prefilling]

    @property
    def requests(self) -> list[RequestT]:
        """Return all requests, running and waiting."""
        return [*self.running, *self.waiting]

    def add(self, request: RequestT, user: str = "") -> None:
        """Append a request to the queue. Raises QueueFullError if the queue is full."""
        self._user_of[request] = user
        self.waiting.append(request)
        if self._max_waiting is not None and self.position(request) > self._max_waiting:
            self.remove(request)
            raise QueueFullError(
                f"{self._max_waiting} stories are waiting already, and no more can: "
                "please try again in a moment."
            )

    def remove(self, request: RequestT) -> None:
        """Remove a request from whichever list it is in; does nothing if it is in none."""
        self._user_of.pop(request, None)
        for requests in (self.decoding, self.prefilling, self.waiting):
            if request in requests:
                requests.remove(request)

    def next_admissible(self) -> RequestT | None:
        """Return the oldest waiting request that both limits allow to admit now; None if there is none."""
        return next(self._admissible(), None)

    def admit(self, request: RequestT) -> None:
        """Move a request from waiting to prefilling."""
        self.waiting.remove(request)
        self.prefilling.append(request)

    def finish_prefill(self, request: RequestT) -> None:
        """Move a request whose prompt has been prefilled to decoding."""
        self.prefilling.remove(request)
        self.decoding.append(request)

    def preempt(self, request: RequestT) -> None:
        """Move a request whose state is lost to the front of prefilling."""
        self.decoding.remove(request)
        self.prefilling.insert(0, request)

    def position(self, request: RequestT) -> int:
        """Return a request's position in the queue, from 1; 0 if it runs or can be admitted now."""
        if request not in self.waiting:
            return 0
        admitted = set(self._admissible())
        behind = [other for other in self.waiting if other not in admitted]
        return behind.index(request) + 1 if request in behind else 0

    def _admissible(self) -> Iterator[RequestT]:
        """Yield the waiting requests that can be admitted now, all at once, oldest first."""
        if not self.waiting:  # the usual case, once a step
            return
        free = self._max_running_requests - len(self.decoding) - len(self.prefilling)
        running = Counter(self._user_of[request] for request in self.running)
        for request in self.waiting:
            user = self._user_of[request]
            if free and (not user or running[user] < self._max_running_per_user):
                free -= 1
                running[user] += 1
                yield request
