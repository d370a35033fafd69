"""Find out which kernel compilers are installed and work."""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
from functools import cache
from typing import Any

import torch

log = logging.getLogger(__name__)
_recovery_attempts: list[
    Any
] = []  # what has been tried where Triton's kernels failed, and what that needs to stay


def has_triton() -> bool:
    """Return whether Triton is installed and `recover_triton` has not disabled it."""
    return _is_installed() and len(_recovery_attempts) < 2


@cache
def _is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def recover_triton(device: torch.device, error: BaseException | str) -> bool:
    """React to a failure of Triton's kernels; return True if the caller should try again.

    The kernels on disk may be damaged, or the disk full or read-only. So after the first failure Triton's
    cache moves to a temporary folder, where all kernels are compiled again. After the second failure, or if
    no such folder can be created, Triton is disabled, and plain PyTorch is used. Returns False if the device
    is no CUDA GPU or Triton was not in use.
    """
    if device.type != "cuda" or not has_triton():
        return False
    if not _recovery_attempts and (folder := _fresh_folder()) is not None:
        _recovery_attempts.append(folder)
        os.environ["TRITON_CACHE_DIR"] = folder.name
        log.warning("Triton's kernels failed; they are compiled again, elsewhere. (%s)", _in_one_line(error))
        return True
    _recovery_attempts.extend([None, None])
    log.warning("Triton's kernels cannot be used: plain PyTorch is slower. (%s)", _in_one_line(error))
    return True


def _fresh_folder() -> tempfile.TemporaryDirectory[str] | None:
    """Create a writable folder that is removed at the end of this process; None if that fails."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="jet-triton-", ignore_cleanup_errors=True)
        with open(os.path.join(folder.name, "room"), "wb") as file:
            file.write(bytes(2**20))
    except OSError:
        return None
    os.remove(file.name)
    return folder


def _in_one_line(error: BaseException | str) -> str:
    text = " ".join(str(error).split())
    kind = "" if isinstance(error, str) else f"{type(error).__name__}: "
    return kind + (text if len(text) <= 300 else f"{text[:300]} …")
