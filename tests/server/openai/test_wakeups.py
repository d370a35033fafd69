"""Test that readers on an event loop get every chunk that another thread puts, once and in order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

from jet.api import RequestStats, TokenChunk
from jet.engine.stream import Channel, LocalStream
from jet.server.openai.wakeups import BUSY_TOKENS_PER_S, COALESCE_S, Reader, Wakeups

FIRST = TokenChunk("", (), RequestStats())


def chunk(number: int, reason: str | None = None) -> TokenChunk:
    return TokenChunk(f"{number} ", (number,), RequestStats(tokens=number, finish_reason=reason))


def play(act: Callable[[Channel, Reader], Awaitable[None]], alive: Callable[[], bool] = lambda: True) -> None:
    async def run() -> None:
        channel = Channel(FIRST, alive)
        await act(channel, Reader(LocalStream(channel), Wakeups()))

    asyncio.run(asyncio.wait_for(run(), 30))


def test_no_chunk_is_lost_or_late_however_threads_interleave() -> None:
    count = 3000

    async def act(channel: Channel, reader: Reader) -> None:
        assert await reader.next() == [FIRST]
        writer = threading.Thread(
            target=lambda: [
                channel.put(chunk(n, "stop" if n == count else None)) for n in range(1, count + 1)
            ]
        )
        writer.start()
        found: list[int] = []
        while not found or found[-1] < count:
            chunks = await reader.next(patience_s=20)
            assert chunks, "the reader was not woken"
            found += (one.token_ids[0] for one in chunks)
        assert found == list(range(1, count + 1))
        writer.join()

    play(act)


def test_chunks_are_joined_within_a_gap_and_the_end_does_not_wait() -> None:
    async def act(channel: Channel, reader: Reader) -> None:
        await reader.next()
        loop = asyncio.get_running_loop()
        channel.put(chunk(1))
        loop.call_later(0.01, channel.put, chunk(2))
        reader._due = loop.time()  # however long ago the first chunk was read
        assert [one.stats.tokens for one in await reader.next(0.2)] == [1, 2]
        channel.put(chunk(3))
        loop.call_later(0.01, channel.put, chunk(4, "stop"))
        assert [one.stats.tokens for one in await reader.next(600)] == [3, 4]

    play(act)


def test_a_reader_without_chunks_comes_back_and_hears_that_an_engine_has_died() -> None:
    alive = [True]

    async def act(channel: Channel, reader: Reader) -> None:
        await reader.next()
        assert await reader.next(patience_s=0.01) == []
        alive[0] = False
        (last,) = await reader.next(patience_s=0.01)
        assert last.stats.finish_reason == "error" and "died" in str(last.stats.error)

    play(act, lambda: alive[0])


def test_frames_are_coalesced_from_a_rate_on() -> None:
    now = [0.0]

    async def run() -> None:
        wakeups = Wakeups(lambda: now[0])
        for rate, gap in ((BUSY_TOKENS_PER_S / 2, 0.0), (BUSY_TOKENS_PER_S * 2, COALESCE_S)):
            now[0] += 1
            wakeups.count(int(rate))
            assert wakeups.gap_s == gap

    asyncio.run(run())
