"""Check that waiting with a timeout returns results in time, and never loses a cancellation."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from jet.timeouts import within


def test_a_result_in_time_is_returned() -> None:
    assert asyncio.run(within(10, asyncio.sleep(0, "here"))) == "here"


def test_an_error_is_passed_on() -> None:
    async def fail() -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        asyncio.run(within(10, fail()))


def test_what_takes_longer_is_canceled() -> None:
    async def story() -> None:
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with pytest.raises(asyncio.TimeoutError):
            await within(0.001, never)
        await asyncio.sleep(0)
        assert never.cancelled()

    asyncio.run(story())


@pytest.mark.parametrize("turns", range(5))
def test_a_cancellation_is_kept_when_a_result_comes_at_the_same_time(turns: int) -> None:
    async def story() -> None:
        inbox: asyncio.Queue[int] = asyncio.Queue()
        waiting = asyncio.create_task(within(10, inbox.get()))
        await asyncio.sleep(0.001)
        inbox.put_nowait(1)
        for _ in range(turns):
            if not waiting.done():
                await asyncio.sleep(0)
        if not waiting.done():
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    asyncio.run(story())


def test_no_item_of_a_queue_is_lost() -> None:
    async def story() -> None:
        inbox: asyncio.Queue[int] = asyncio.Queue()
        found = []
        asyncio.get_running_loop().call_later(0.005, inbox.put_nowait, 1)
        while not found:
            with suppress(asyncio.TimeoutError):
                found.append(await within(0.001, inbox.get()))
        assert found == [1] and inbox.empty()

    asyncio.run(story())
