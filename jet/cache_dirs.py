"""Folders that libraries make while they are imported: one that cannot be written to stops no start.

PyTorch and Gradio have theirs in the folder for temporary files, under names that another user of the machine
may have taken. Neither keeps anything there that has to be there at the next start.
"""

from __future__ import annotations

import getpass
import logging
import os
import re
import tempfile

log = logging.getLogger(__name__)
_made: list[tempfile.TemporaryDirectory[str]] = []  # gone with this process


def ensure_torch_folder() -> None:
    """Before torch is imported: name a folder that it can write to, where it could not write to its own.

    Raises OSError where no file can be written anywhere.
    """
    try:
        user = getpass.getuser()
    except (KeyError, ModuleNotFoundError, OSError):
        user = f"uid_{os.getuid()}" if hasattr(os, "getuid") else "unknown_user"
    _ensure("TORCHINDUCTOR_CACHE_DIR", "torchinductor_" + re.sub(r'[\\/:*?"<>|]', "_", user))


def ensure_gradio_folder() -> None:
    """The same, before gradio is imported."""
    _ensure("GRADIO_TEMP_DIR", "gradio")


def _ensure(variable: str, name: str) -> None:
    folder = os.environ.get(variable) or os.path.join(tempfile.gettempdir(), name)
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        reason = error.strerror or type(error).__name__
    _made.append(tempfile.TemporaryDirectory(prefix="jet-", ignore_cleanup_errors=True))
    os.environ[variable] = _made[-1].name
    log.warning(
        "%s cannot be written to (%s): a folder that lasts as long as this process is used. "
        "Set %s to a folder of your own.",
        folder,
        reason,
        variable,
    )
