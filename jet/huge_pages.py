"""Ask the system for huge pages for weights, because reads through huge pages miss the TLB less often.

Linux gives huge pages to memory for which they were requested before its first use. Elsewhere nothing
happens.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from typing import Any

import torch
from torch import Tensor

_LEAST = 2**22  # bytes: twice a huge page


def empty_in_huge_pages(*shape: int, dtype: torch.dtype) -> Tensor:
    """Allocate an uninitialized tensor on the CPU, in huge pages if it is large and the system has them."""
    tensor = torch.empty(shape, dtype=dtype)
    if tensor.nbytes >= _LEAST:
        advise_huge_pages(tensor)
    return tensor


def advise_huge_pages(tensor: Tensor) -> None:
    """Ask for huge pages for a tensor's memory. Only parts that have not been used yet get them."""
    advise, advice = _advise(), getattr(mmap, "MADV_HUGEPAGE", None)
    if advise is None or advice is None or tensor.device.type != "cpu":
        return
    begin = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > begin:  # an error only says that there are no huge pages
        advise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), ctypes.c_int(advice))


@cache
def _advise() -> Any:
    """Return the C library's `madvise`; None if it has none."""
    try:
        return ctypes.CDLL(None).madvise
    except (OSError, TypeError, AttributeError):
        return None
