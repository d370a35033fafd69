"""Batch: generates all answers to one HTTP request concurrently, `n` for each prompt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing

from jet.api import Engine, Request
from jet.server.openai.errors import ApiError
from jet.server.openai.generation import Delta, Generation
from jet.server.openai.service import ApiService
from jet.server.openai.tokens import Codec

WINDOW = 64  # answers to one HTTP request that are in the engine at once
MAX_ANSWERS = 2_048

Gap = Callable[[], float]


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

        `counted`: the name under which limits count them.
        """
        self._service, self._engine, self._requests = service, engine, list(requests)
        self._counted, self._stops, self._codec = counted, stops, codec
        self._window = min(WINDOW, service.limiter.limits.stories_per_user or WINDOW)
        self.generations: list[Generation] = []

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def gap_s(self) -> float:
        """Return the seconds between two frames of an answer at the present load."""
        return self._service.gap_s

    async def open(self) -> None:
        """Start as many requests as may run at once. Raises ApiError if a limit rejects one."""
        try:
            while len(self.generations) < min(len(self), self._window):
                await self._begin_next()
        except BaseException:
            self.close()
            raise

    async def deltas(self, gap_s: Gap) -> AsyncIterator[tuple[int, Delta]]:
        """Yield the parts of all answers as they come, each with the answer's number. Raises ApiError."""
        if len(self) == 1:
            async with aclosing(self.generations[0].deltas(gap_s)) as deltas:  # type: ignore[type-var]
                async for delta in deltas:
                    yield 0, delta
            return
        inbox: asyncio.Queue[tuple[int, Delta | ApiError]] = asyncio.Queue()
        running = [self._follow(number, gap_s, inbox) for number in range(len(self.generations))]
        left = len(self)
        try:
            while left:
                number, found = await inbox.get()
                if isinstance(found, ApiError):
                    raise found
                yield number, found
                if found.finish_reason is not None or found.stats.error is not None:
                    left -= 1
                    self.generations[number].close()
                    if len(self.generations) < len(self):
                        await self._begin_next()
                        running.append(self._follow(len(self.generations) - 1, gap_s, inbox))
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _follow(
        self, number: int, gap_s: Gap, inbox: asyncio.Queue[tuple[int, Delta | ApiError]]
    ) -> asyncio.Task[None]:
        async def follow() -> None:
            try:
                async for delta in self.generations[number].deltas(gap_s):
                    inbox.put_nowait((number, delta))
            except Exception as error:
                inbox.put_nowait((number, ApiError(500, str(error) or type(error).__name__, "server_error")))

        return asyncio.create_task(follow())

    async def _begin_next(self) -> None:
        request = self._requests[len(self.generations)]
        begun = await self._service.begin(self._engine, request, self._counted, self._stops, self._codec)
        self.generations.append(begun)

    def close(self) -> None:
        """End all requests, running or not. Safe to call twice."""
        for generation in self.generations:
            generation.close()
