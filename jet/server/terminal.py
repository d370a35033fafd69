"""Write to the terminal or log without ever failing.

Output may be closed, go to a full disk or a broken pipe, or have an encoding without emoji. Text that cannot
be written is dropped, or written with the characters that the encoding has.
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
    """A text stream whose methods never raise. All other attributes are the wrapped stream's."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text with secrets removed, as far as the stream allows."""
        if self._stream is not None:
            # ValueError: the stream has been closed.
            with suppress(OSError, ValueError):
                self._stream.write(_to_encodable(redact(text), self._stream))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write all lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the stream if possible."""
        if self._stream is not None:
            with suppress(OSError, ValueError):
                self._stream.flush()

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        if self._stream is not None:
            with suppress(OSError, ValueError):
                return self._stream.isatty()
        return False

    @property
    def encoding(self) -> str:
        """Return the encoding of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def __getattr__(self, name: str) -> Any:
        if self._stream is None:
            raise AttributeError(name)
        return getattr(self._stream, name)


@contextmanager
def tolerant_output() -> Iterator[None]:
    """Make stdout and stderr tolerant while the context is open. May be nested."""
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
    """Discard output that cannot be flushed, because Python would fail on it at exit."""
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
