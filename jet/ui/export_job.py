"""ExportJob: writes a file in a thread while the page polls its progress."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

from jet.files.writing import Written

_QUICK_S = 0.2  # for so long the page waits for a file before it shows how far that is


class ExportJob:
    """A file that is being written in a thread.

    Attributes:
        name: the kind of file to show, such as "EPUB".
    """

    def __init__(self, name: str, make: Callable[[Callable[[float], None]], Written]) -> None:
        self.name = name
        self._done = 0.0
        self._task = asyncio.ensure_future(asyncio.to_thread(make, self._note))

    def _note(self, done: float) -> None:
        self._done = done

    async def reply(self) -> dict[str, Any]:
        """Return the file if it is written within 0.2 seconds, otherwise its progress from 0 to 1.

        Raises StoryError if writing failed.
        """
        await asyncio.wait([self._task], timeout=_QUICK_S)
        if not self._task.done():
            return {"exporting": {"name": self.name, "done": round(self._done, 3)}}
        written = self._task.result()
        data = base64.b64encode(written.data).decode("ascii")
        return {"download": {"name": written.name, "data": data, "type": written.media_type}}
