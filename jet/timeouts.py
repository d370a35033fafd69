"""Wait with a timeout and never lose a cancellation.

`asyncio.wait_for` of Python 3.10 and 3.11 returns the result, and forgets that its caller was canceled, when
both happen in the same turn of the event loop (cpython issue 86296).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

Result = TypeVar("Result")


async def within(seconds: float, waiting: Awaitable[Result]) -> Result:
    """Return the result of a coroutine or future, awaited for at most so many seconds.

    Raises:
        asyncio.TimeoutError: if `waiting` takes longer; it is then canceled.
        asyncio.CancelledError: whenever the caller is canceled; `waiting` is then canceled, too.
    """
    task = asyncio.ensure_future(waiting)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            return task.result()
        raise asyncio.TimeoutError
    finally:
        task.cancel()
