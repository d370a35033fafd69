"""Batch: generates all answers to one HTTP request concurrently, `n` for each prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from jet.api import Engine, Request
from jet.server.openai.errors import ApiError
from jet.server.openai.generation import Delta, Generation
from jet.server.openai.service import ApiService
from jet.server.openai.tokens import Codec

WINDOW = 64  # answers to one HTTP request that are in the engine at once
MAX_ANSWERS = 2_048


class Batch:
    """Runs the engine requests of one HTTP request, on the event loop. `close` must always be called."""

    def __init__(
        self,
        service: ApiService,
        engine: Engine,
        requests: Sequence[Request],
        counted: str,
        stops: Sequence[str] = (),
        codec: Codec | None = None,
    ) -> None:
        """Prepare the engine requests; `open` starts the first ones.

        Args:
            service: starts the requests within the limits.
            engine: runs the requests.
            requests: one engine request for each answer.
            counted: the name under which limits count the requests.
            stops: stop strings of all answers.
            codec: the engine's tokenizer; None if the engine has none.
        """
        self._service, self._engine, self._requests = service, engine, list(requests)
        self._counted, self._stops, self._codec = counted, stops, codec
        self._window = min(WINDOW, service.limiter.limits.stories_per_user or WINDOW)
        self.generations: list[Generation] = []
        self._inbox: asyncio.Queue[tuple[int, Delta | ApiError]] = asyncio.Queue()
        self._following: list[asyncio.Task[None]] = []
        self._left = len(self._requests)  # answers that have not ended

    def __len__(self) -> int:
        return len(self._requests)

    async def open(self) -> None:
        """Start as many requests as may run at once. Raises ApiError if a limit rejects one."""
        try:
            while len(self.generations) < min(len(self), self._window):
                await self._begin_next()
        except BaseException:
            self.close()
            raise

    async def next(self, gap_s: float | None = None) -> tuple[int, Delta] | None:
        """Wait for the next part of any answer; return the answer's number and the part.

        Returns None when all answers have ended. Raises ApiError.

        Args:
            gap_s: least seconds between two parts of an answer, the same in every call; None adapts them to
                the present load.
        """
        if len(self._requests) == 1:
            delta = await self.generations[0].next(self._service.gap_s if gap_s is None else gap_s)
            return None if delta is None else (0, delta)
        while len(self._following) < len(self.generations):
            self._following.append(asyncio.create_task(self._follow(len(self._following), gap_s)))
        if not self._left:
            return None
        number, found = await self._inbox.get()
        if isinstance(found, ApiError):
            raise found
        if found.finish_reason is not None or found.stats.error is not None:
            self._left -= 1
            self.generations[number].close()
            if len(self.generations) < len(self):
                await self._begin_next()
        return number, found

    async def _follow(self, number: int, gap_s: float | None) -> None:
        """Put the parts of an answer into the inbox."""
        generation = self.generations[number]
        try:
            while True:
                delta = await generation.next(self._service.gap_s if gap_s is None else gap_s)
                if delta is None:
                    return
                self._inbox.put_nowait((number, delta))
        except Exception as error:
            failure = ApiError(500, str(error) or type(error).__name__, "server_error")
            self._inbox.put_nowait((number, failure))

    async def _begin_next(self) -> None:
        request = self._requests[len(self.generations)]
        begun = await self._service.begin(self._engine, request, self._counted, self._stops, self._codec)
        self.generations.append(begun)

    def close(self) -> None:
        """End all requests, running or not. Safe to call twice."""
        for task in self._following:
            task.cancel()
        for generation in self.generations:
            generation.close()
