"""Make sure that libraries can write to their cache folders, which they create while they are imported.

PyTorch and Gradio put theirs into the folder for temporary files, under names that another user of the
machine may have taken. Neither needs the contents at the next start, so a folder for this process is enough.
"""

from __future__ import annotations

import getpass
import logging
import os
import re
import tempfile

log = logging.getLogger(__name__)
_made: list[tempfile.TemporaryDirectory[str]] = []  # removed when this process ends


def ensure_torch_folder() -> None:
    """Give torch a folder that it can write to, if its own is not writable. Call this before importing torch.

    Raises OSError if no temporary folder can be created.
    """
    try:
        user = getpass.getuser()
    except (KeyError, ModuleNotFoundError, OSError):
        user = f"uid_{os.getuid()}" if hasattr(os, "getuid") else "unknown_user"
    _ensure("TORCHINDUCTOR_CACHE_DIR", "torchinductor_" + re.sub(r'[\\/:*?"<>|]', "_", user))


def ensure_gradio_folder() -> None:
    """Give gradio a folder that it can write to, as `ensure_torch_folder` does for torch."""
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
