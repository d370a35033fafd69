"""Collect descriptions of the losses when a file is imported, to show them to the writer."""

from __future__ import annotations

MAX_NAMED = 40  # losses told one by one


class Losses:
    """Collects losses while a file is read. Repeated ones are listed once, with their number."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[str, int]] = {}
        self._beyond = 0

    def add(self, what: str) -> None:
        """Add a loss, described in a few words such as "its settings"."""
        self._note(what, "", 0)

    def count(self, one: str, many: str, number: int = 1) -> None:
        """Add a number of equal losses, described in singular and plural: "picture", "pictures"."""
        if number > 0:
            self._note(one, many, number)

    def told(self) -> tuple[str, ...]:
        """Return the descriptions of all losses in the order of their first occurrence.

        After 40 different losses, the others are only counted.
        """
        named = []
        for one, (many, number) in self._counts.items():
            named.append(one if not number else f"{number:,} {one if number == 1 else many}")
        if self._beyond:
            named.append(f"{self._beyond:,} more of the kind")
        return tuple(named)

    def _note(self, what: str, many: str, number: int) -> None:
        known = self._counts.get(what)
        if known is None and len(self._counts) >= MAX_NAMED:
            self._beyond += max(1, number)
            return
        self._counts[what] = (many, (known[1] if known else 0) + number)
