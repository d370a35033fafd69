"""The terminal or log that a page is started from: told what there is to tell, and never needed.

Output may be closed, on a full disk, in a pipe that nobody reads any more, or in an encoding without emoji.
What cannot be written is then left out, or written in the letters that there are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from jet.credentials import redact

_ASCII_FALLBACK = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "·": "-", "×": "x"}
)


class _TolerantStream:
    """A text stream whose writing never fails. Everything else is the stream's own."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written, without any secret."""
        if self._stream is not None:
            # ValueError: the stream has been closed.
            with suppress(OSError, ValueError):
                self._stream.write(_to_encodable(redact(text), self._stream))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write them all."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Send on what has been written, if that is possible."""
        if self._stream is not None:
            with suppress(OSError, ValueError):
                self._stream.flush()

    def isatty(self) -> bool:
        """Whether somebody sits there."""
        if self._stream is not None:
            with suppress(OSError, ValueError):
                return self._stream.isatty()
        return False

    @property
    def encoding(self) -> str:
        """Of what is written."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def __getattr__(self, name: str) -> Any:
        if self._stream is None:
            raise AttributeError(name)
        return getattr(self._stream, name)


@contextmanager
def tolerant_output() -> Iterator[None]:
    """Inside, nothing that is printed or logged can fail. Nested ones change nothing."""
    if isinstance(sys.stdout, _TolerantStream):
        yield
        return
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _TolerantStream(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in before:
            _discard_unflushed(stream)


def _discard_unflushed(stream: TextIO | None) -> None:
    """Python flushes its outputs at the end, and fails if they cannot be: then what is left is dropped."""
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        with suppress(OSError, ValueError):
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, stream.fileno())
            os.close(devnull)
    except ValueError:  # closed already
        pass


def _to_encodable(text: str, stream: TextIO) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
        return text
    except LookupError:
        return text.translate(_ASCII_FALLBACK).encode("ascii", "replace").decode("ascii")
    except UnicodeEncodeError:
        return text.translate(_ASCII_FALLBACK).encode(encoding, "replace").decode(encoding)
