"""Read untrusted JSON field by field, with errors that say what is wrong and where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from jet.story.errors import StoryFileError
from jet.story.pieces import clean, to_valid_unicode

TOP = "the story"  # the place of the outermost object, in messages

Kind = TypeVar("Kind", str, int, bool, list[Any], dict[str, Any])

_NAMES: dict[type, str] = {
    str: "text",
    int: "a whole number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


class Fields:
    """The fields of a JSON object.

    Take every field that is known, then call `expect_no_more`, which raises an error if other fields are
    left.
    """

    def __init__(self, plain: object, where: str) -> None:
        """Read the fields of `plain`. Raises StoryFileError if `plain` is no object.

        `where`: the name of the object in messages.
        """
        if not isinstance(plain, dict):
            raise StoryFileError(f"{where} must be an object with fields.")
        self.where = where
        self._remaining = dict(plain)

    def has(self, name: str) -> bool:
        """Return whether there is a field of that name that has not been taken."""
        return name in self._remaining

    def take(self, name: str, expected: type[Kind]) -> Kind:
        """Take the value of a field. Raises StoryFileError if it is missing or of another type."""
        if name not in self._remaining:
            raise StoryFileError(f"{self.where} has no field {name!r}.")
        value: object = self._remaining.pop(name)
        boolean = isinstance(value, bool) and expected is not bool  # which Python takes for a whole number
        if not isinstance(value, expected) or boolean:
            raise StoryFileError(f"{self.where}: {name!r} must be {_NAMES[expected]}.")
        return value

    def take_text(self, name: str) -> str:
        """Take a text field, normalized by `pieces.clean`."""
        return clean(self.take(name, str))

    def take_raw_text(self, name: str) -> str:
        """Take a text field with its line breaks, so that offsets into it hold."""
        return to_valid_unicode(self.take(name, str))

    def take_or_null(self, name: str, expected: type[Kind]) -> Kind | None:
        """Take the value of a field like `take`; return None if the value is null."""
        if name in self._remaining and self._remaining[name] is None:
            return self._remaining.pop(name)  # type: ignore[no-any-return]
        return self.take(name, expected)

    def take_items(self, name: str) -> Iterator[tuple[Any, str]]:
        """Take a list field. Yields each item with the name of its place, such as "spans[3]"."""
        return items(self.take(name, list), self._place(name))

    def take_object(self, name: str) -> Fields:
        """Take a nested object."""
        return Fields(self.take(name, dict), self._place(name))

    def _place(self, name: str) -> str:
        return f"{self.where}.{name}" if self.where != TOP else name

    def expect_no_more(self) -> None:
        """Raise StoryFileError if unknown fields are left."""
        if self._remaining:
            raise StoryFileError(f"{self.where} has an unknown field {str(min(self._remaining))[:40]!r}.")


def items(plain: list[Any], where: str) -> Iterator[tuple[Any, str]]:
    """Yield each item of a list with the name of its place, such as "spans[3]"."""
    return ((item, f"{where}[{index}]") for index, item in enumerate(plain))
