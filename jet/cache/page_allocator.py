"""PageAllocator: who holds which page of keys and values. Plain numbers; the pages themselves are in a pool.

A page is held by stories that are being written (live) and by states that are kept for later (kept). Several
may hold the same page, where they share a beginning. What only kept states hold can be had for the asking:
whoever keeps them lets go of the one that was not used for longest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable


class PageAllocator:
    """Pages 1 to `count`; page 0 is nobody's.

    Attributes:
        reserved_pages: pages that live stories may still ask for.
        version: of each page, another number whenever something else may have come to stand in it.
        evict: lets go of one kept state; False if there is none. Set by whoever keeps them.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = list(range(count, 0, -1))
        self._live_refs = [0] * (count + 1)
        self._cached_refs = [0] * (count + 1)
        self._only_cached = 0
        self.reserved_pages = 0
        self.version = [0] * (count + 1)
        self.evict: Callable[[], bool] = lambda: False

    @property
    def free(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    @property
    def available(self) -> int:
        """How many pages can be promised to a new story."""
        return self.free + self._only_cached - self.reserved_pages

    @property
    def in_use(self) -> int:
        """Pages that live stories hold, or may still ask for."""
        return self._count - self.available

    def allocate(self) -> int:
        """A page for a live story; kept states make room. Raises MemoryError if all are in use."""
        while not self._free:
            if not self.evict():
                raise MemoryError("Every page of memory is in use.")
        page = self._free.pop()
        self._live_refs[page] = 1
        self.version[page] += 1
        return page

    def is_shared(self, page: int) -> bool:
        """Whether more than one holds the page, so that nobody may write to it."""
        return self._live_refs[page] + self._cached_refs[page] > 1

    def is_live(self, page: int) -> bool:
        """Whether a live story holds the page."""
        return self._live_refs[page] > 0

    def ref(self, pages: Iterable[int]) -> None:
        """Another live story holds these pages, which somebody holds already."""
        for page in pages:
            self._only_cached -= self._live_refs[page] == 0
            self._live_refs[page] += 1

    def unref(self, pages: Iterable[int]) -> None:
        """A live story lets go of these pages."""
        for page in pages:
            self._live_refs[page] -= 1
            if self._live_refs[page] == 0:
                self._only_cached += self._cached_refs[page] > 0
                self._free_if_unheld(page)

    def ref_cached(self, pages: Iterable[int]) -> None:
        """A kept state holds these pages, which somebody holds already."""
        for page in pages:
            self._cached_refs[page] += 1
            self._only_cached += self._cached_refs[page] == 1 and self._live_refs[page] == 0

    def unref_cached(self, pages: Iterable[int]) -> None:
        """A kept state lets go of these pages."""
        for page in pages:
            self._cached_refs[page] -= 1
            if self._cached_refs[page] == 0 and self._live_refs[page] == 0:
                self._only_cached -= 1
                self._free_if_unheld(page)

    def _free_if_unheld(self, page: int) -> None:
        if self._live_refs[page] == 0 and self._cached_refs[page] == 0:
            self._free.append(page)
