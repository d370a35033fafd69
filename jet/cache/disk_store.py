"""DiskStore: snapshots in files, so that a story continues after a restart without a new prefill.

    FOLDER/secret                                      32 random bytes, made on first use
    FOLDER/<checkpoint>/<user>/<length>-<tokens>.state one snapshot

Checkpoint, user and tokens are named by keyed hashes. A file holds states and no text, but the text could be
guessed from the states. Files therefore have mode 0600, folders 0700.

A file is written under a temporary name and renamed when it is complete. A digest covers all its bytes. So
processes can share a folder, and a crash leaves no usable partial file. A file that is incomplete, damaged,
or of another folder, user or layout is deleted when it is read.

The store handles tokens and tensors only; `jet.engine.stored_states` chooses and restores snapshots.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jet.cache_dirs import cache_root
from jet.token_ids import Tokens

KEPT_PER_STORY = 4  # snapshots of one text: the ends of its last continuations, and a little before them
SPARE = 2**30  # bytes of the disk that are left free
FORMAT = 1
_MAGIC = b"jet state\n"
_NAME = re.compile(r"(\d{1,9})-([0-9a-f]{32})(-logits)?\.state")
_DIGEST = 32
_MAX_HEADER = 2**16
_STALE_S = 3600.0  # age of a file that was never finished, after which it is removed
_PAUSE_S = 60.0  # without writing, after a write has failed
_SECRET = "secret"
_DURABLE = "durable "

log = logging.getLogger(__name__)


def durable_salt(*parts: str) -> str:
    """Return a user's cache salt, made from the secret strings `parts` and so the same in every process."""
    return _DURABLE + hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def is_durable(cache_salt: str) -> bool:
    """Return whether `durable_salt` made a cache salt, so that its states can be found after a restart."""
    return cache_salt.startswith(_DURABLE)


@dataclass(frozen=True)
class StateFolder:
    """A folder of stored states.

    Attributes:
        path: the folder; `open` creates it.
        limit: the most bytes that all stored files together may take.
    """

    path: Path
    limit: int = 4 * 10**9

    @classmethod
    def make(cls, path: Path | None = None, gigabytes: float | None = None) -> StateFolder:
        """Return a folder with a limit.

        Args:
            path: the folder; None for `states` in this program's cache folder.
            gigabytes: the limit in units of 10^9 bytes; None for the class's default.
        """
        path = cache_root() / "states" if path is None else path
        return cls(path) if gigabytes is None else cls(path, int(gigabytes * 1e9))

    def open(self) -> bytes:
        """Create the folder if it is missing, and return its secret.

        Raises OSError if the folder cannot be created or read, has another owner, or can be written by
        others.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.path.stat()
        if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & 0o022):
            raise PermissionError(errno.EPERM, "others may write to it")
        return _read_secret(self.path / _SECRET)

    def files(self) -> list[tuple[float, int, Path]]:
        """Return the stored files, each as (time of last use in seconds since the epoch, bytes, path)."""
        found = []
        for entry in _walk(self.path, 2):
            if entry.name.endswith(".state"):
                with suppress(OSError):
                    facts = entry.stat(follow_symlinks=False)
                    found.append((facts.st_mtime, facts.st_size, Path(entry.path)))
        return found

    @property
    def nbytes(self) -> int:
        """Return the bytes of all stored files."""
        return sum(size for _, size, _ in self.files())

    def forget(self, cache_salt: str) -> None:
        """Remove all states of a user, of every checkpoint; do nothing if the user has none."""
        with suppress(OSError):
            user = _hash((self.path / _SECRET).read_bytes(), b"user", cache_salt.encode())
            for checkpoint in self.path.iterdir():
                shutil.rmtree(checkpoint / user, ignore_errors=True)


@dataclass(frozen=True)
class StoredState:
    """A stored snapshot: its file, its length in tokens, and whether it has the next token's logits."""

    path: Path
    length: int
    has_logits: bool


class DiskStore:
    """Stores the snapshots of one checkpoint in a `StateFolder`. Writes in a thread of its own.

    Only the constructor raises an error of the disk. If a state cannot be written or read later, its tokens
    are prefilled again.
    """

    def __init__(self, folder: StateFolder, checkpoint: str) -> None:
        """Open a folder for the states of a checkpoint. Raises OSError if the folder cannot be used.

        `checkpoint`: a text that differs between checkpoints whose states are not interchangeable.
        """
        self._folder, self._secret = folder, folder.open()
        self._home = folder.path / _hash(self._secret, b"checkpoint", checkpoint.encode())
        self._worker = ThreadPoolExecutor(1, "jet-states")
        self._pause_until = 0.0
        self._queued, self._lock = 0, threading.Lock()
        self.on_change: Callable[[int], None] = lambda nbytes: None  # gets the folder's bytes
        self._worker.submit(self._tidy)

    @property
    def queued(self) -> int:
        """Return the number of snapshots that are still to be written."""
        return self._queued

    def find(self, cache_salt: str, tokens: Tokens, longer_than: int = 0) -> StoredState | None:
        """Return the longest stored snapshot that a prompt of these tokens can start from.

        Returns None if there is none. The snapshot has more than `longer_than` tokens. A snapshot as long as
        the prompt is found only if it has logits.
        """
        for stored in sorted(self._of_user(cache_salt), key=lambda one: -one.length):
            room = len(tokens) - stored.length
            fits = stored.length > longer_than and (room > 0 or (room == 0 and stored.has_logits))
            if fits and stored.path == self._path(cache_salt, tokens[: stored.length], stored.has_logits):
                return stored
        return None

    def read(self, stored: StoredState, like: Sequence[Tensor], logits: Tensor) -> list[Tensor] | None:
        """Read a snapshot's tensors, which have the types and shapes of `like` and, if stored, of `logits`.

        If the file is damaged, incomplete or of another snapshot, this logs a warning, deletes the file and
        returns None.
        """
        wanted = [*like, logits] if stored.has_logits else like
        try:
            tensors = _read(stored.path, self._key(stored.path), wanted)
            os.utime(stored.path)
        except (OSError, ValueError) as error:
            log.warning("A stored state is not used, and its text is prefilled again: %s.", error)
            if not isinstance(error, FileNotFoundError):
                with suppress(OSError):
                    stored.path.unlink()
            return None
        return tensors

    def has(self, cache_salt: str, tokens: Tokens, has_logits: bool) -> bool:
        """Return whether a snapshot of exactly these tokens is stored, with logits if required."""
        return any(
            self._path(cache_salt, tokens, with_logits).exists()
            for with_logits in ((True,) if has_logits else (True, False))
        )

    def save(self, cache_salt: str, tokens: Tokens, tensors: Sequence[Tensor], logits: Tensor | None) -> None:
        """Queue a snapshot for writing; do nothing if the store is closed.

        Args:
            cache_salt: the user's salt.
            tokens: the tokens after which the state was taken.
            tensors: the state, in host memory; the caller must not change it later.
            logits: the next token's logits, likewise in host memory; None if they are unknown.
        """
        with self._lock:
            self._queued += 1
        try:
            self._worker.submit(self._save, cache_salt, tokens, tensors, logits)
        except RuntimeError:  # closed, or no thread can be started
            with self._lock:
                self._queued -= 1

    def forget(self, cache_salt: str) -> None:
        """Remove all states of a user, also those that are still to be written."""
        self._folder.forget(cache_salt)
        with suppress(RuntimeError):
            self._worker.submit(partial(self._forget, cache_salt))

    def close(self) -> None:
        """Write the queued snapshots, and end the thread."""
        self._worker.shutdown()

    # In the thread of its own.

    def _forget(self, cache_salt: str) -> None:
        self._folder.forget(cache_salt)
        self._tell()

    def _save(
        self, cache_salt: str, tokens: Tokens, tensors: Sequence[Tensor], logits: Tensor | None
    ) -> None:
        try:
            if time.monotonic() >= self._pause_until:
                self._write(cache_salt, tokens, tensors, logits)
                self._tell()
        except OSError as error:
            self._pause_until = time.monotonic() + _PAUSE_S
            log.warning(
                "A story's state was not stored (%s), so that it would be prefilled after a restart.",
                error.strerror or error,
            )
        except Exception:
            log.warning("A story's state was not stored.", exc_info=True)
        finally:
            with self._lock:
                self._queued -= 1

    def _write(
        self, cache_salt: str, tokens: Tokens, tensors: Sequence[Tensor], logits: Tensor | None
    ) -> None:
        path = self._path(cache_salt, tokens, logits is not None)
        parts = [*tensors, *([] if logits is None else [logits])]
        size = sum(part.nbytes for part in parts) + _MAX_HEADER
        if size > self._folder.limit:
            return
        self._make_room(size)
        self._make_folders(path.parent)
        if shutil.disk_usage(path.parent).free < size + SPARE:
            raise OSError(errno.ENOSPC, f"less than {(size + SPARE) / 1e9:.1f} GB are free on its disk")
        unfinished = path.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            number = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(number, "wb", buffering=0) as file:
                for piece in _pieces(parts, self._key(path)):
                    rest = memoryview(piece)
                    while rest:
                        rest = rest[file.write(rest) :]
            os.replace(unfinished, path)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise
        self._thin(cache_salt, tokens)

    def _make_folders(self, user: Path) -> None:
        """Create a user's folder and its parents, which may have been removed."""
        if not (self._folder.path / _SECRET).exists():
            self._folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileExistsError):
                _write_secret(self._folder.path / _SECRET, self._secret)
        for folder in (self._home, user):
            folder.mkdir(mode=0o700, exist_ok=True)

    def _thin(self, cache_salt: str, tokens: Tokens) -> None:
        """Keep only the `KEPT_PER_STORY` longest of a user's snapshots of these tokens and their prefixes."""
        same = [
            one
            for one in self._of_user(cache_salt)
            if one.length <= len(tokens)
            and one.path == self._path(cache_salt, tokens[: one.length], one.has_logits)
        ]
        for one in sorted(same, key=lambda one: (-one.length, not one.has_logits))[KEPT_PER_STORY:]:
            with suppress(OSError):
                one.path.unlink()

    def _make_room(self, size: int) -> None:
        """Remove the least recently used files until `size` more bytes fit."""
        files = sorted(self._folder.files())
        total = sum(used for _, used, _ in files)
        for _, used, path in files:
            if total + size <= self._folder.limit:
                return
            with suppress(OSError):
                path.unlink()
            total -= used

    def _tidy(self) -> None:
        """Remove unfinished files of crashed processes, old empty folders, and files beyond the limit.

        The least recently used files are removed until the others fit.
        """
        old = time.time() - _STALE_S
        for entry in _walk(self._folder.path, 2):
            with suppress(OSError):
                if entry.name.endswith(".tmp") and entry.stat().st_mtime < old:
                    os.unlink(entry.path)
        for user in self._folder.path.glob("*/*/"):
            with suppress(OSError):
                if user.stat().st_mtime < old:
                    user.rmdir()  # if it is empty
        self._make_room(0)
        self._tell()

    def _tell(self) -> None:
        self.on_change(self._folder.nbytes)

    # Names.

    def _of_user(self, cache_salt: str) -> Iterator[StoredState]:
        folder = self._home / _hash(self._secret, b"user", cache_salt.encode())
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if (parts := _NAME.fullmatch(entry.name)) is not None:
                    yield StoredState(Path(entry.path), int(parts[1]), parts[3] is not None)

    def _path(self, cache_salt: str, tokens: Tokens, has_logits: bool) -> Path:
        user = _hash(self._secret, b"user", cache_salt.encode())
        text = _hash(self._secret, b"tokens", cache_salt.encode(), np.asarray(tokens, np.int32).tobytes())
        return self._home / user / f"{len(tokens)}-{text}{'-logits' if has_logits else ''}.state"

    def _key(self, path: Path) -> bytes:
        """Return the key of a file's digest.

        The key depends on the file's name and folders, so a renamed or moved file is not valid.
        """
        parts = (part.encode() for part in path.parts[-3:])
        return bytes.fromhex(_hash(self._secret, b"file", *parts))


def _hash(secret: bytes, *parts: bytes) -> str:
    made = hashlib.blake2b(key=secret, digest_size=16)
    for part in parts:
        made.update(len(part).to_bytes(8, "little") + part)
    return made.hexdigest()


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.flatten().view(torch.uint8).numpy().data


def _header(tensors: Sequence[Tensor]) -> bytes:
    layout = [[str(tensor.dtype), list(tensor.shape)] for tensor in tensors]
    written = json.dumps({"format": FORMAT, "tensors": layout}).encode()
    return _MAGIC + len(written).to_bytes(4, "little") + written


def _pieces(tensors: Sequence[Tensor], key: bytes) -> Iterator[bytes | memoryview]:
    """Yield the contents of a file for tensors: header, tensors, digest."""
    digest = hashlib.blake2b(key=key, digest_size=_DIGEST)
    pieces: list[bytes | memoryview] = [_header(tensors)]
    pieces += [_bytes_of(tensor.contiguous()) for tensor in tensors]
    for piece in pieces:
        digest.update(piece)
        yield piece
    yield digest.digest()


def _read(path: Path, key: bytes, like: Sequence[Tensor]) -> list[Tensor]:
    """Read tensors of the types and shapes of `like` from a file.

    Raises OSError if the file cannot be read, or ValueError with the reason if it is invalid.
    """
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(number, "rb", buffering=0) as file:
        facts = os.fstat(number)
        if not stat.S_ISREG(facts.st_mode) or (hasattr(os, "getuid") and facts.st_uid != os.getuid()):
            raise ValueError("its file belongs to somebody else")
        header = _header(like)
        if facts.st_size != len(header) + sum(one.nbytes for one in like) + _DIGEST:
            raise ValueError("its file is incomplete, or of another layout")
        if file.read(len(header)) != header:
            raise ValueError("its file is of another layout")
        digest = hashlib.blake2b(header, key=key, digest_size=_DIGEST)
        tensors = [torch.empty(one.shape, dtype=one.dtype) for one in like]
        for tensor in tensors:
            rest = memory = _bytes_of(tensor)
            while rest:
                count = file.readinto(rest)
                if not count:
                    raise ValueError("its file is incomplete")
                rest = rest[count:]
            digest.update(memory)
        if not secrets.compare_digest(file.read(_DIGEST), digest.digest()):
            raise ValueError("its file is damaged")
    return tensors


def _read_secret(path: Path) -> bytes:
    """Return the secret in a file; create it if it is missing. Raises OSError."""
    for _ in range(100):
        with suppress(FileNotFoundError):
            secret = path.read_bytes()
            if len(secret) == 32:
                return secret
            if time.time() - path.stat().st_mtime > 1:  # a crash has cut it off
                path.unlink()
        with suppress(FileExistsError):
            _write_secret(path, secrets.token_bytes(32))
            continue
        time.sleep(0.02)  # another process is writing it
    raise OSError(errno.EIO, "its secret cannot be read")


def _write_secret(path: Path, secret: bytes) -> None:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(secret)


def _walk(folder: Path | str, depth: int) -> Iterator[os.DirEntry[str]]:
    """Yield the entries of all subfolders `depth` levels below a folder, without following links."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if depth and entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, depth - 1)
            elif not depth:
                yield entry
