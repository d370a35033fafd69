"""TensorWriter: writes a safetensors file tensor by tensor, so that only one tensor is in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

# Names of types in a safetensors file.
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.uint8: "U8",
}
Layout = tuple[torch.dtype, tuple[int, ...]]


class TensorWriter:
    """Writes the tensors of one file in any order."""

    def __init__(self, path: Path, layouts: Mapping[str, Layout]) -> None:
        """Begin a file; `layouts`: name → type and shape of each tensor that will be written."""
        self._layouts, self._places, size = dict(layouts), dict[str, int](), 0
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        # Types of larger numbers first, so that each tensor is aligned.
        for name, (dtype, shape) in sorted(layouts.items(), key=lambda one: -one[1][0].itemsize):
            end = size + torch.Size(shape).numel() * dtype.itemsize
            header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [size, end]}
            self._places[name], size = size, end
        written = json.dumps(header, separators=(",", ":")).encode()
        written += b" " * (-len(written) % 8)
        self._begin, self._file = 8 + len(written), path.open("wb")
        self._file.write(len(written).to_bytes(8, "little") + written)
        self._file.truncate(self._begin + size)

    def write(self, name: str, tensor: Tensor) -> None:
        """Write one tensor. Raises ValueError unless it has the type and shape that `layouts` gives."""
        if (tensor.dtype, tuple(tensor.shape)) != self._layouts[name]:
            raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}, not {self._layouts[name]}.")
        self._file.seek(self._begin + self._places.pop(name))
        self._file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)

    def __enter__(self) -> TensorWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file. Raises ValueError if tensors are missing."""
        self._file.close()
        if kind is None and self._places:
            raise ValueError(f"These tensors were not written: {', '.join(sorted(self._places))}.")
