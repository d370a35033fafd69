"""Read API keys from a file, one per line (`name: key` or `key`), and look up the key of a request."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jet.credentials import SecretError, clean

SHORTEST = 8  # characters of a key


class KeysError(ValueError):
    """A file of keys cannot be used. The message names the line, never the key."""


@dataclass(frozen=True)
class Caller:
    """The sender of a request, identified by an API key.

    Attributes:
        name: the key's name, under which limits count requests; "" on a server without keys.
        digest: the key's SHA-256 in hex, which isolates cached prefixes; "" on a server without keys.
    """

    name: str = ""
    digest: str = ""


class Keys:
    """The accepted keys of a server, stored as digests."""

    def __init__(self, digests: Mapping[bytes, str]) -> None:
        """Store the accepted keys.

        `digests`: the name of every key, by the key's SHA-256 digest.
        """
        self._digests = dict(digests)

    @classmethod
    def read(cls, path: Path) -> Keys:
        """Read keys from a file. Skips blank lines and lines that begin with `#`. Raises KeysError."""
        try:
            lines = path.read_text("utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise KeysError(f"{path} cannot be read: it is no text in UTF-8.") from None
        except OSError as error:
            raise KeysError(f"{path} cannot be read: {error.strerror or 'it is no file'}.") from None
        digests: dict[bytes, str] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            name, found, key = line.partition(":")
            name, key = (name.strip(), key.strip()) if found else (f"key {number}", line.strip())
            try:
                key = clean(key, f"{path}, line {number},")
            except SecretError as error:
                raise KeysError(str(error)) from None
            if len(key) < SHORTEST or " " in key:
                raise KeysError(
                    f"{path}, line {number}, is no key: it needs {SHORTEST} characters or more, and no blank."
                )
            digests[_digest(key)] = name
        if not digests:
            raise KeysError(f"{path} has no key, so the API would refuse every request.")
        return cls(digests)

    def find(self, presented: str) -> Caller | None:
        """Return the caller with this key; None for an unknown key. Every key takes the same time."""
        digest, found = _digest(presented), None
        for known, name in self._digests.items():
            if secrets.compare_digest(known, digest):
                found = Caller(name, known.hex())
        return found


def presented_key(headers: Mapping[str, str]) -> str:
    """Return the key in a request's headers; "" without a key.

    The key is in `Authorization: Bearer KEY` or `X-API-Key: KEY`.
    """
    scheme, _, said = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and said.strip():
        return said.strip()
    return headers.get("x-api-key", "").strip()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
