"""TensorReader: reads tensors of safetensors files without mapping the files.

The touched parts of a mapped file count as the process's memory, and a checkpoint may be as large as a
machine's memory.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from jet.huge_pages import empty_in_huge_pages

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class TensorReader:
    """Reads the tensors of one file, whole or by rows. Use it from one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open a file that has been checked, and read its header.

        Raises OSError if the file cannot be read, ValueError if it is damaged.
        """
        self._file = path.open("rb", buffering=0)
        size = int.from_bytes(self._file.read(8), "little")
        header: dict[str, Any] = json.loads(self._file.read(size))
        header.pop("__metadata__", None)
        self._begin, self._entries = 8 + size, header

    def names(self) -> list[str]:
        """Return the names of all tensors."""
        return list(self._entries)

    def shape(self, name: str) -> list[int]:
        """Return a tensor's shape."""
        return list(self._entries[name]["shape"])

    def dtype(self, name: str) -> torch.dtype:
        """Return a tensor's type."""
        return _TYPES[self._entries[name]["dtype"]]

    def whole(self, name: str) -> Tensor:
        """Read a tensor into new memory. Raises ValueError if the file is too short."""
        return self._read(name, self.shape(name), 0)

    def rows(self, name: str, begin: int, end: int) -> Tensor:
        """Read the rows from `begin` to `end` (exclusive) of a matrix.

        Raises ValueError if the file is too short.
        """
        _, columns = self.shape(name)
        return self._read(name, [end - begin, columns], begin * columns)

    def _read(self, name: str, shape: list[int], first: int) -> Tensor:
        kind = self.dtype(name)
        # Codes are laid out anew before they are used.
        tensor = (empty_in_huge_pages if kind.is_floating_point else torch.empty)(*shape, dtype=kind)
        self._file.seek(self._begin + self._entries[name]["data_offsets"][0] + first * tensor.itemsize)
        rest = tensor.view(-1).view(torch.uint8).numpy().data if math.prod(shape) else memoryview(b"")
        while rest:
            count = self._file.readinto(rest)
            if not count:
                raise ValueError(f"{self._file.name} ends within {name}.")
            rest = rest[count:]
        return tensor

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._file.close()
