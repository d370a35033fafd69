"""Accounts that may log in, from a file of lines `name:hash`.

`python -m jet.server.accounts FILE NAME` adds an account.
"""

from __future__ import annotations

import argparse
import base64
import codecs
import getpass
import hashlib
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

_COST = {"n": 2**14, "r": 8, "p": 1}
_ALGORITHM = "scrypt"


class AccountsError(ValueError):
    """An accounts file cannot be used. The message says why."""


class Accounts:
    """Checks passwords against hashes. Gradio calls an instance with the name and password of a login."""

    def __init__(self, hashes: dict[str, str]) -> None:
        self._hashes = hashes
        self._dummy_hash = hash_password(secrets.token_hex())

    @classmethod
    def read(cls, path: Path) -> Accounts:
        """Read accounts from a file. Raises AccountsError."""
        hashes: dict[str, str] = {}
        for number, line in enumerate(_read_lines(path), start=1):
            name, hashed = _parse_line(line)
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            if not name or name in hashes or not _is_hash(hashed):
                raise AccountsError(
                    f"{path}, line {number}, is no account: "
                    f"make one with python -m jet.server.accounts {path} NAME."
                )
            hashes[name] = hashed
        if not hashes:
            raise AccountsError(f"{path} has no account: add one before you use it.")
        return cls(hashes)

    def __call__(self, name: str, password: str) -> bool:
        """Return whether the password belongs to the name. Unknown names take the same time."""
        hashed = self._hashes.get(name)
        return _matches(password, hashed or self._dummy_hash) and hashed is not None


def hash_password(password: str) -> str:
    """Hash a password with a random salt, as the accounts file stores it."""
    salt = secrets.token_bytes(16)
    return f"{_ALGORITHM}${_base64(salt)}${_base64(_derive(password, salt))}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Add an account to a file, or replace it. Asks for the password on the terminal."""
    parser = argparse.ArgumentParser(prog="jet.server.accounts", description=main.__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("name")
    options = parser.parse_args(arguments)
    if ":" in options.name or options.name != options.name.strip() or options.name.startswith("#"):
        parser.error("a name has no colon, no blanks around it, and no # in front")
    password = getpass.getpass(f"Password of {options.name}: ")
    if len(password) < 8:
        parser.error("a password has at least 8 characters")
    try:
        lines = _read_lines(options.file) if options.file.exists() else []
    except AccountsError as error:
        parser.error(str(error))
    others = [line for line in lines if _parse_line(line)[0] != options.name]
    options.file.touch(mode=0o600)
    options.file.write_text("\n".join([*others, f"{options.name}:{hash_password(password)}", ""]), "utf-8")
    return 0


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a text file in UTF-8 or UTF-16. Raises AccountsError."""
    try:
        data = path.read_bytes()
        # Windows PowerShell writes UTF-16 by default.
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except OSError as error:
        raise AccountsError(f"{path} cannot be read: {error.strerror or 'it is no file'}.") from None
    except UnicodeDecodeError:
        raise AccountsError(f"{path} cannot be read: it is no text in UTF-8.") from None
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


def _parse_line(line: str) -> tuple[str, str]:
    """Split a line at its first colon into name and hash, and strip both."""
    name, _, hashed = line.partition(":")
    return name.strip(), hashed.strip()


def _matches(password: str, hashed: str) -> bool:
    _, salt, wanted = hashed.split("$")
    return secrets.compare_digest(_derive(password, base64.b64decode(salt)), base64.b64decode(wanted))


def _is_hash(text: str) -> bool:
    algorithm, *parts = text.split("$")
    try:
        return algorithm == _ALGORITHM and [len(base64.b64decode(part, validate=True)) for part in parts] == [
            16,
            32,
        ]
    except ValueError:
        return False


def _derive(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode("utf-8", "surrogatepass"), salt=salt, dklen=32, **_COST)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


if __name__ == "__main__":
    sys.exit(main())
