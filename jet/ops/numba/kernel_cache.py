# mypy: allow-untyped-defs, allow-untyped-calls
"""KernelCache: numba's cache of compiled kernels on disk, but without raising errors.

numba raises an error for a truncated cache file, at every start until the file is deleted. Here, a kernel is
compiled again if its file is damaged, and at every start if the folder is read-only. Files have a checksum,
since damaged machine code could do anything.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
from contextlib import suppress
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile

log = logging.getLogger(__name__)
_warned: set[str] = set()


class KernelCache(FunctionCache):
    """numba's on-disk cache of one function, in which any error of reading or writing is a cache miss."""

    def __init__(self, py_func):
        super().__init__(py_func)
        # As numba's own, with checked files.
        stamp = self._impl.locator.get_source_stamp()
        self._cache_file = _CheckedFiles(self._cache_path, f"checked.{self._impl.filename_base}", stamp)

    def load_overload(self, sig, target_context):
        """Load the compiled function for a signature; None if it has to be compiled."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:
            _warn_once(
                f"Compiled kernels in {self._cache_path} cannot be read: they are compiled again.", error
            )
            with suppress(Exception):
                self.flush()  # or what is compiled could not be kept, either
            return None

    def save_overload(self, sig, data):
        """Save a compiled function; log a warning once if it cannot be saved."""
        try:
            super().save_overload(sig, data)
        except Exception as error:
            _warn_once(
                f"Compiled kernels cannot be kept in {self._cache_path}: every start compiles them. "
                "Make room there, or set NUMBA_CACHE_DIR to a folder of your own.",
                error,
            )


class _CheckedFiles(IndexDataCacheFile):
    """numba's cache files, each with a SHA-256 digest in front of its content."""

    def _dump(self, obj):
        data = super()._dump(obj)
        return hashlib.sha256(data).digest() + data

    def _load_data(self, name):
        with open(self._data_path(name), "rb") as file:
            check, data = file.read(32), file.read()
        return _unpickle(check, data, name)

    def _load_index(self):
        try:
            with open(self._index_path, "rb") as file:
                version = pickle.load(file)
                check, data = file.read(32), file.read()
        except FileNotFoundError:
            return {}
        if version != self._version:
            return {}
        stamp, overloads = _unpickle(check, data, self._index_name)
        return overloads if stamp == self._source_stamp else {}


def _unpickle(check: bytes, data: bytes, name: str) -> Any:
    if hashlib.sha256(data).digest() != check:
        raise ValueError(f"{name} is cut off or damaged")
    return pickle.loads(data)


def _warn_once(message: str, error: Exception) -> None:
    """Log a warning, unless the same one was logged before."""
    if message not in _warned:
        _warned.add(message)
        log.warning("%s (%s: %s)", message, type(error).__name__, error)
