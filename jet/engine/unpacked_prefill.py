"""UnpackedPrefill: base class of prefills that run one sequence at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from jet.cache.pinned import to_device


class Part(NamedTuple):
    """The next tokens `[T]` of one sequence in a packed chunk; its slot has the `length` tokens before."""

    slot: int
    length: int
    token_ids: npt.NDArray[np.int32]


class UnpackedPrefill:
    """Base of the prefills that run one sequence at a time and have nothing to capture."""

    max_packed = 0
    device = torch.device("cpu")

    def run(self, slot: int, length: int, ids: Tensor) -> Tensor:
        """Run one chunk; see `Prefill.run`."""
        raise NotImplementedError

    def run_packed(self, parts: Sequence[Part]) -> Tensor:
        """Run the sequences one after the other; see `Prefill.run_packed`."""
        return torch.cat(
            [self.run(slot, length, to_device(ids, torch.int64, self.device)) for slot, length, ids in parts]
        )

    def capture_next(self) -> bool:
        """Return False: nothing has to be captured."""
        return False
