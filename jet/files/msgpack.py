"""Decode MessagePack as NovelAI's editor writes it, with msgpackr's records and bundled strings.

Types that such a document does not use raise an error. Sizes and depth are limited.
"""

from __future__ import annotations

import struct
from typing import Any

MAX_VALUES = 500_000
MAX_DEPTH = 100
_RECORD, _BUNDLE, _SET, _DATE = 0x72, 0x62, 0x73, 0xFF
_OWN_CLASSES = frozenset((20, 30, 31, 40, 41, 42))  # each is followed by its fields


class MessagePackError(ValueError):
    """The bytes are no document of NovelAI's editor, or exceed a limit.

    The message completes a sentence that begins "… cannot be read: ".
    """


def unpack(data: bytes) -> Any:
    """Decode the value that the bytes begin with. Raises MessagePackError."""
    reader = _Reader(data)
    try:
        return reader.value(0)
    except (IndexError, struct.error, UnicodeDecodeError, TypeError, RecursionError) as error:
        raise MessagePackError(f"it breaks off or is damaged ({type(error).__name__})") from None


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._left = MAX_VALUES
        self._records: dict[int, list[Any]] = {}
        self._two_byte: set[int] = set()
        self._bundle_texts: tuple[bytes, bytes] | None = None
        self._places = [0, 0]

    def _take(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise IndexError
        self._at += count
        return self._data[self._at - count : self._at]

    def _int(self, count: int, signed: bool = False) -> int:
        return int.from_bytes(self._take(count), "big", signed=signed)

    def value(self, depth: int) -> Any:
        self._left -= 1
        if self._left < 0 or depth > MAX_DEPTH:
            raise MessagePackError("it holds more than a story may have")
        mark = self._int(1)
        if 0x40 <= mark < 0x80:
            return self._record(mark, depth)
        if mark < 0x40:
            return mark
        if mark >= 0xE0:
            return mark - 0x100
        if mark < 0x90:
            return self._map(mark & 0x0F, depth)
        if mark < 0xA0:
            return self._list(mark & 0x0F, depth)
        if mark < 0xC0:
            return self._take(mark & 0x1F).decode()
        return self._long(mark, depth)

    def _long(self, mark: int, depth: int) -> Any:
        if mark in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[mark]
        if mark == 0xC1:
            return self._bundled(self.value(depth + 1))
        if 0xC4 <= mark <= 0xC6:
            return self._take(self._int(1 << (mark - 0xC4)))
        if 0xC7 <= mark <= 0xC9:
            return self._extension(self._int(1 << (mark - 0xC7)), depth)
        if mark in (0xCA, 0xCB):
            return struct.unpack(">f" if mark == 0xCA else ">d", self._take(4 if mark == 0xCA else 8))[0]
        if 0xCC <= mark <= 0xCF:
            return self._int(1 << (mark - 0xCC))
        if 0xD0 <= mark <= 0xD3:
            return self._int(1 << (mark - 0xD0), signed=True)
        if 0xD4 <= mark <= 0xD8:
            return self._extension(1 << (mark - 0xD4), depth)
        if 0xD9 <= mark <= 0xDB:
            return self._take(self._int(1 << (mark - 0xD9))).decode()
        if mark in (0xDC, 0xDD):
            return self._list(self._int(2 if mark == 0xDC else 4), depth)
        return self._map(self._int(2 if mark == 0xDE else 4), depth)

    def _count(self, count: int) -> int:
        if count > self._left or count > len(self._data) - self._at:
            raise MessagePackError("it holds more than a story may have")
        return count

    def _list(self, count: int, depth: int) -> list[Any]:
        return [self.value(depth + 1) for _ in range(self._count(count))]

    def _map(self, count: int, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for _ in range(self._count(count)):
            key = self.value(depth + 1)
            found[key] = self.value(depth + 1)
        return found

    def _extension(self, length: int, depth: int) -> Any:
        kind = self._int(1)
        body = self._take(length)
        if kind == _RECORD and length in (1, 2):
            return self._define(body, depth)
        if kind == _BUNDLE and length >= 4:
            return self._bundle(int.from_bytes(body[:4], "big") - length, depth)
        if kind == _SET:
            return self.value(depth + 1)
        if kind in _OWN_CLASSES:
            return self.value(depth + 1)
        if kind in (0, _DATE):
            return None
        raise MessagePackError(f"it uses an extension that is not known here ({kind})")

    def _define(self, body: bytes, depth: int) -> Any:
        """Read a record that defines the field names for its number, and return it.

        The names come first, then the values. Later records with the number contain values only.
        """
        number = (body[0] & 0x3F) | ((body[1] << 6) if len(body) == 2 else 0)
        if len(body) == 2:
            self._two_byte.add(body[0] & 0x3F)
        names = self.value(depth + 1)
        if not isinstance(names, list):
            raise MessagePackError("it is damaged")
        self._records[number] = names
        return {name: self.value(depth + 1) for name in names}

    def _record(self, mark: int, depth: int) -> Any:
        number = mark & 0x3F
        if number in self._two_byte and number not in self._records:
            number |= self._int(1) << 6
        names = self._records.get(number)
        if names is None:
            return mark  # a plain number
        return {name: self.value(depth + 1) for name in names}

    def _bundle(self, distance: int, depth: int) -> Any:
        """Read two bundles of strings `distance` bytes ahead, then the value that takes strings from them.

        The value gives each string's length in UTF-16 code units.
        """
        back = self._at
        self._at += distance
        if distance < 0:
            raise MessagePackError("it is damaged")
        texts = self.value(depth + 1), self.value(depth + 1)
        self._at = back
        first, second = (text.encode("utf-16-le") if isinstance(text, str) else b"" for text in texts)
        self._bundle_texts, self._places = (first, second), [0, 0]
        return self.value(depth + 1)

    def _bundled(self, length: object) -> str:
        if self._bundle_texts is None or not isinstance(length, int):
            raise MessagePackError("it is damaged")
        which = 1 if length > 0 else 0
        text, start = self._bundle_texts[which], self._places[which]
        end = self._places[which] = start + 2 * abs(length)
        if end > len(text):
            raise IndexError
        return text[start:end].decode("utf-16-le")
