"""Test that a machine of known speed is measured and described correctly."""

from __future__ import annotations

from itertools import chain, repeat

import torch

from jet.bench.report import machine
from jet.bench.report.gpu_specs import GPU_SPECS, find_gpu_spec

CPU = torch.device("cpu")


class Clock:
    """A clock that advances only with work."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_device_of_known_speed_gives_that_speed() -> None:
    clock = Clock()

    def work() -> None:
        clock.now += 0.25

    samples = machine.rate(work, 2e9, clock)
    assert len(samples.values) >= 5 and set(samples.values) == {8e9}


def test_the_first_run_warms_up_and_does_not_count() -> None:
    clock, durations = Clock(), chain([9.0], repeat(0.5))

    def work() -> None:
        clock.now += next(durations)

    assert machine.rate(work, 1.0, clock).minimum == 2.0


def test_without_a_gpu_nothing_is_said_of_one() -> None:
    found = machine.describe(CPU)
    assert found["memory"] > 2**28
    assert [found[name] for name in ("device_memory", "capability", "driver")] == [None] * 3
    assert "numba" in found["accelerators"]


def test_every_card_is_found_by_the_name_its_driver_gives() -> None:
    names = {
        "NVIDIA GeForce RTX 3060 Laptop GPU": "RTX 3060 Laptop",
        "NVIDIA GeForce RTX 4090": "RTX 4090",
        "Tesla T4": "T4",
        "NVIDIA L4": "L4",
        "NVIDIA A100-SXM4-80GB": "A100 80GB",
        "NVIDIA H100 80GB HBM3": "H100 SXM",
        "NVIDIA H200": "H200",
    }
    assert set(names.values()) == {card.name for card in GPU_SPECS}
    for device, name in names.items():
        card = find_gpu_spec(device)
        assert card is not None and card.name == name


def test_other_devices_have_no_data_sheet_here() -> None:
    others = ("AMD EPYC 9654, 2 threads", "NVIDIA L40S", "NVIDIA H100 PCIe", "NVIDIA A100-SXM4-40GB")
    for name in (*others, "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 3060"):
        assert find_gpu_spec(name) is None, name
