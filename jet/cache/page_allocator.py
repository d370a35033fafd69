"""PageAllocator: reference counts for pages of keys and values.

The allocator knows page numbers only; `StatePool` owns the memory. Running sequences hold pages (live
references) and so do cached snapshots (cached references). Sequences and snapshots with a common prefix share
its pages. Pages that only snapshots hold count as available: allocating evicts the least recently used
snapshots until a page is free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

NULL_PAGE = 0  # padding rows write to it; never allocated


class PageAllocator:
    """Allocates pages 1 to `count`; page 0 is `NULL_PAGE`.

    Attributes:
        reserved_pages: pages reserved by running sequences and not allocated yet.
        version: a number for each page that changes whenever its content may have changed.
        evict: frees one cached snapshot; returns False if none can be freed. Set by the owner of the cache.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = list(range(count, NULL_PAGE, -1))
        self._live_refs = [0] * (count + 1)
        self._cached_refs = [0] * (count + 1)
        self._only_cached = 0
        self.reserved_pages = 0
        self.version = [0] * (count + 1)
        self.evict: Callable[[], bool] = lambda: False

    @property
    def free(self) -> int:
        """Return the number of pages without any reference."""
        return len(self._free)

    @property
    def available(self) -> int:
        """Return how many pages a new sequence can reserve: free or evictable, and not reserved yet."""
        return self.free + self._only_cached - self.reserved_pages

    @property
    def in_use(self) -> int:
        """Return the number of pages that running sequences hold or have reserved."""
        return self._count - self.available

    def allocate(self) -> int:
        """Allocate a page with one live reference, evicting snapshots if none is free.

        Raises MemoryError if running sequences hold all pages.
        """
        while not self._free:
            if not self.evict():
                raise MemoryError("Every page of memory is in use.")
        page = self._free.pop()
        self._live_refs[page] = 1
        self.version[page] += 1
        return page

    def is_shared(self, page: int) -> bool:
        """Return whether a page has several references, so that writing to it needs a copy."""
        return self._live_refs[page] + self._cached_refs[page] > 1

    def is_live(self, page: int) -> bool:
        """Return whether a running sequence holds the page."""
        return self._live_refs[page] > 0

    def ref(self, pages: Iterable[int]) -> None:
        """Add a live reference to each of these pages, which must have a reference already."""
        for page in pages:
            self._only_cached -= self._live_refs[page] == 0
            self._live_refs[page] += 1

    def unref(self, pages: Iterable[int]) -> None:
        """Drop a live reference to each of these pages."""
        for page in pages:
            self._live_refs[page] -= 1
            if self._live_refs[page] == 0:
                self._only_cached += self._cached_refs[page] > 0
                self._free_if_unused(page)

    def ref_cached(self, pages: Iterable[int]) -> None:
        """Add a cached reference to each of these pages, which must have a reference already."""
        for page in pages:
            self._cached_refs[page] += 1
            self._only_cached += self._cached_refs[page] == 1 and self._live_refs[page] == 0

    def unref_cached(self, pages: Iterable[int]) -> None:
        """Drop a cached reference to each of these pages."""
        for page in pages:
            self._cached_refs[page] -= 1
            if self._cached_refs[page] == 0 and self._live_refs[page] == 0:
                self._only_cached -= 1
                self._free_if_unused(page)

    def _free_if_unused(self, page: int) -> None:
        if self._live_refs[page] == 0 and self._cached_refs[page] == 0:
            self._free.append(page)
