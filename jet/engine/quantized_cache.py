"""Keep quantized copies of checkpoints: written on first use, reused afterwards.

A copy belongs to the exact files that it was made from. If they change, it is made again and the old copy is
removed, so there is at most one for each checkpoint and scheme.
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from jet.cache_dirs import cache_root
from jet.engine.hub import Canceled
from jet.modeling import CheckpointError
from jet.modeling.checkpoint import check_folder, weight_files
from jet.modeling.quantized_format import VERSION
from jet.modeling.quantized_writing import write_quantized

Progress = Callable[[int, int], None]  # matrices done, and in all; may raise `Canceled`

_DIGITS = 12
_CODE_BYTES = 2**20  # of a file that is compared by its content, not by its time


def models_folder() -> Path:
    """Return the folder that holds all quantized copies."""
    return cache_root() / "models"


def find(name: str, source: Path, scheme: str) -> Path | None:
    """Return the folder of a checkpoint's copy in a scheme; None if there is none.

    `name`: the checkpoint's hub id or path. `source`: the folder with its weights.
    """
    try:
        copy = _copy_path(name, source, scheme)
        check_folder(copy)
        return copy
    except (CheckpointError, OSError):
        return None


def make(name: str, source: Path, scheme: str, progress: Progress = lambda done, total: None) -> Path:
    """Return the folder of a checkpoint's copy in a scheme; make the copy if there is none.

    `progress` is called with the matrices done and in all. Raises CheckpointError if the copy cannot be made;
    `progress` may raise `Canceled` to stop.
    """
    if (found := find(name, source, scheme)) is not None:
        return found
    copy = _copy_path(name, source, scheme)
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(copy.parent / f"{copy.name}.lock", timeout=1):
            _remove(name, scheme)  # older copies, and what an interrupted attempt has left
            return write_quantized(source, scheme, copy, progress=progress)
    except Timeout:
        raise CheckpointError(f"Another program is quantizing {name} just now: wait for it.") from None
    except CheckpointError as error:
        raise _explained(name, scheme, error.__cause__) or error from None
    except OSError as error:
        raise _explained(name, scheme, error) or error from None
    finally:
        (copy.parent / f"{copy.name}.lock").unlink(missing_ok=True)


def remove(name: str, scheme: str) -> int:
    """Remove the copies of a checkpoint in a scheme. Returns the bytes that this frees."""
    return _remove(name, scheme)


def size_of(name: str, scheme: str) -> int:
    """Return the bytes that the copies of a checkpoint in a scheme take."""
    return sum(map(_folder_bytes, _copies(name, scheme)))


def _explained(name: str, scheme: str, cause: BaseException | None) -> Exception | None:
    if isinstance(cause, Canceled):
        return cause
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return CheckpointError(
            f"The disk became full while {name} was quantized to {scheme}: make room in {models_folder()}, "
            "or set JET_CACHE_DIR to a folder elsewhere."
        )
    if isinstance(cause, PermissionError):
        return CheckpointError(
            f"{models_folder()} cannot be written: set JET_CACHE_DIR to a folder of yours."
        )
    return None


def _copy_path(name: str, source: Path, scheme: str) -> Path:
    """Return the path of a copy; it contains a hash of the files that the copy is made from."""
    digest = hashlib.sha256(f"{VERSION} {scheme}".encode())
    for file in [source / "config.json", *weight_files(source)]:
        real = file.resolve()
        status = real.stat()
        digest.update(f"{real.name} {status.st_size}".encode())
        if status.st_size <= _CODE_BYTES:
            digest.update(real.read_bytes())
        else:
            digest.update(f"{status.st_mtime_ns}".encode())
    return models_folder() / f"{_slug(name)}-{scheme}-{digest.hexdigest()[:_DIGITS]}"


def _slug(name: str) -> str:
    """Return a folder name for a model; for a path, its last part and a hash of the whole path."""
    path = Path(name)
    last = path.name if path.is_absolute() else name
    plain = re.sub(r"[^A-Za-z0-9._-]+", "--", last.strip("./\\")) or "model"
    return plain if not path.is_absolute() else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _copies(name: str, scheme: str) -> list[Path]:
    pattern = re.compile(rf"{re.escape(_slug(name))}-{scheme}-[0-9a-f]{{{_DIGITS}}}(-.*)?")
    folder = models_folder()
    if not folder.is_dir():
        return []
    return [one for one in folder.iterdir() if one.is_dir() and pattern.fullmatch(one.name)]


def _remove(name: str, scheme: str) -> int:
    copies = _copies(name, scheme)
    size = sum(map(_folder_bytes, copies))
    for copy in copies:
        shutil.rmtree(copy, ignore_errors=True)
    return size


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
