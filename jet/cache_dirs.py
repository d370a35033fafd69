"""Make sure that libraries can write to their cache folders, and return this program's cache folder.

Libraries create their cache folders on import. PyTorch and Gradio do so in the folder for temporary files,
with names that another user of the machine may have taken. Neither needs the contents at the next start, so a
folder for this process is enough.
"""

from __future__ import annotations

import getpass
import logging
import os
import re
import sys
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)
_made: list[tempfile.TemporaryDirectory[str]] = []  # removed when this process ends


def ensure_torch_folder() -> None:
    """Set another cache folder for torch if its own is not writable. Call this before importing torch.

    Raises OSError if no temporary folder can be created.
    """
    try:
        user = getpass.getuser()
    except (KeyError, ModuleNotFoundError, OSError):
        user = f"uid_{os.getuid()}" if hasattr(os, "getuid") else "unknown_user"
    _ensure("TORCHINDUCTOR_CACHE_DIR", "torchinductor_" + re.sub(r'[\\/:*?"<>|]', "_", user))


def ensure_gradio_folder() -> None:
    """Set another cache folder for gradio if its own is not writable. Call this before importing gradio.

    Raises OSError if no temporary folder can be created.
    """
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


def cache_root() -> Path:
    """Return the folder for this program's cached files, which are created again if they are removed.

    The folder is JET_CACHE_DIR, or else "jet-stories" in the user's cache folder. That folder is
    XDG_CACHE_HOME or ~/.cache on Linux, ~/Library/Caches on a Mac, and LOCALAPPDATA on Windows.
    """
    if given := os.environ.get("JET_CACHE_DIR"):
        return Path(given).expanduser()
    if sys.platform == "win32":
        user = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        user = str(Path.home() / "Library" / "Caches")
    else:
        user = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(user) / "jet-stories"
