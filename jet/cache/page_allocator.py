"""PageLedger: who holds which page of keys and values. Plain numbers; the pages themselves are in a pool.

A page is held by stories that are being written (live) and by states that are kept for later (kept). Several
may hold the same page, where they share a beginning. What only kept states hold can be had for the asking:
whoever keeps them lets go of the one that was not used for longest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable


class PageLedger:
    """Pages 1 to `count`; page 0 is nobody's.

    Attributes:
        promised: pages that live stories may still ask for.
        version: of each page, another number whenever something else may have come to stand in it.
        reclaim: lets go of one kept state; False if there is none. Set by whoever keeps them.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = list(range(count, 0, -1))
        self._live = [0] * (count + 1)
        self._kept = [0] * (count + 1)
        self._only_kept = 0
        self.promised = 0
        self.version = [0] * (count + 1)
        self.reclaim: Callable[[], bool] = lambda: False

    @property
    def free(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    @property
    def room(self) -> int:
        """How many pages can be promised to a new story."""
        return self.free + self._only_kept - self.promised

    @property
    def held(self) -> int:
        """Pages that live stories hold, or may still ask for."""
        return self._count - self.room

    def take(self) -> int:
        """A page for a live story; kept states make room. Raises MemoryError if all are in use."""
        while not self._free:
            if not self.reclaim():
                raise MemoryError("Every page of memory is in use.")
        page = self._free.pop()
        self._live[page] = 1
        self.version[page] += 1
        return page

    def shared(self, page: int) -> bool:
        """Whether more than one holds the page, so that nobody may write to it."""
        return self._live[page] + self._kept[page] > 1

    def live(self, page: int) -> bool:
        """Whether a live story holds the page."""
        return self._live[page] > 0

    def hold(self, pages: Iterable[int]) -> None:
        """Another live story holds these pages, which somebody holds already."""
        for page in pages:
            self._only_kept -= self._live[page] == 0
            self._live[page] += 1

    def release(self, pages: Iterable[int]) -> None:
        """A live story lets go of these pages."""
        for page in pages:
            self._live[page] -= 1
            if self._live[page] == 0:
                self._only_kept += self._kept[page] > 0
                self._free_if_unheld(page)

    def keep(self, pages: Iterable[int]) -> None:
        """A kept state holds these pages, which somebody holds already."""
        for page in pages:
            self._kept[page] += 1
            self._only_kept += self._kept[page] == 1 and self._live[page] == 0

    def forget(self, pages: Iterable[int]) -> None:
        """A kept state lets go of these pages."""
        for page in pages:
            self._kept[page] -= 1
            if self._kept[page] == 0 and self._live[page] == 0:
                self._only_kept -= 1
                self._free_if_unheld(page)

    def _free_if_unheld(self, page: int) -> None:
        if self._live[page] == 0 and self._kept[page] == 0:
            self._free.append(page)
