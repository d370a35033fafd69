"""Test copies of values to a device and back: they stay the same, and those for a GPU are pinned."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jet.cache.pinned import pinned, to_device, to_host


@pytest.mark.parametrize("values", [[3, 1, 2], np.array([3, 1, 2], np.int32)], ids=["list", "array"])
@pytest.mark.parametrize(("device", "pins"), [("cpu", 0), ("cuda", 1)])
def test_what_goes_to_a_gpu_is_pinned(
    values: list[int], device: str, pins: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: seen.append(tensor) or tensor)
    tensor = pinned(values, torch.int64, torch.device(device))
    assert tensor.tolist() == [3, 1, 2] and tensor.dtype == torch.int64
    assert len(seen) == pins


def test_a_copy_does_not_change_with_what_it_was_made_of() -> None:
    values = np.array([3, 1, 2])
    there = to_device(values, torch.int64, torch.device("cpu"))
    values[0] = 7
    back = to_host(there)
    there[0] = 8
    assert back.tolist() == [3, 1, 2]
