"""Which compilers of kernels are installed, and can be used."""

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
    """Return whether Triton is installed and was not given up."""
    return _is_installed() and len(_recovery_attempts) < 2


@cache
def _is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def recover_triton(device: torch.device, error: BaseException | str) -> bool:
    """Change what may have made Triton's kernels fail. Returns whether another try is worth it.

    What is kept on disk may be damaged, or the disk full or not to be written: first all kernels are compiled
    again in a folder of this process. If that is no help either, plain PyTorch does without them.
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
    """Create a writable folder that is removed at the end of this process."""
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
