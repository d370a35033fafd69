"""Test the description of machines, this one and simulated ones."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
import torch

from jet import hardware
from jet.hardware import HardwareError, choose_device, choose_dtype

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("no_cuda")
def test_without_cuda_the_cpu_is_taken() -> None:
    assert choose_device() == choose_device("cpu") == CPU
    with pytest.raises(HardwareError, match="no CUDA device"):
        choose_device("cuda")


@pytest.mark.usefixtures("two_gpus")
def test_with_cuda_it_is_taken() -> None:
    assert choose_device() == choose_device("cuda") == GPU
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert choose_device("cpu") == CPU
    with pytest.raises(HardwareError, match=r"no device cuda:2: this machine has 2"):
        choose_device("cuda:2")


@pytest.mark.parametrize("wanted", ["tpu", "", "cuda:x", "mps", "meta"])
def test_other_devices_are_refused(wanted: str) -> None:
    with pytest.raises(HardwareError, match="choose auto, cpu"):
        choose_device(wanted)


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_bfloat16_where_the_gpu_has_it(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_dtype("auto", GPU) == dtype


def test_a_dtype_is_taken_by_its_name() -> None:
    assert choose_dtype("auto", CPU) == torch.float32
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    assert choose_dtype("float32", GPU) == torch.float32
    with pytest.raises(HardwareError, match="float32, bfloat16, float16"):
        choose_dtype("int4", CPU)


def test_the_cpu_has_a_name_and_threads() -> None:
    name = hardware.device_name(CPU)
    assert name.endswith(f", {torch.get_num_threads()} threads")
    assert len(name.partition(",")[0]) > 2


def test_memory_of_the_process_is_its_resident_set() -> None:
    reading = hardware.read_memory(CPU)
    resident = psutil.Process().memory_info().rss
    assert reading.process_memory_bytes == pytest.approx(resident, rel=0.1)
    assert reading.device_memory_bytes is None and reading.device_total_bytes is None
    assert hardware.free_device_bytes(CPU) is None


@pytest.mark.gpu
def test_memory_of_the_device_is_the_allocators() -> None:
    device = choose_device()
    before = hardware.read_memory(device)
    held = torch.zeros(2**20, device=device)
    reading = hardware.read_memory(device)
    assert reading.device_memory_bytes - before.device_memory_bytes == held.nbytes
    assert reading.device_reserved_bytes >= reading.device_memory_bytes
    assert reading.device_peak_bytes >= reading.device_memory_bytes
    assert reading.device_total_bytes > hardware.free_device_bytes(device) > 0
    assert hardware.device_name(device) == torch.cuda.get_device_name(device)


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "200000 100000\n"}, 2.0),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "gibberish"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_a_containers_share_of_the_processors_is_read(
    files: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert hardware.container_quota(tmp_path) == quota


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": "1000", "memory.current": "300"}, 700),
        ({"memory.max": "1000", "memory.current": "1300"}, 0),
        ({"memory.max": "max", "memory.current": "300"}, None),
        ({"memory/memory.limit_in_bytes": "1000", "memory/memory.usage_in_bytes": "300"}, 700),
        ({"memory.max": "1000"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_what_a_container_may_still_take(files: dict[str, str], left: int | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert hardware.container_memory(tmp_path) == left


def test_only_a_device_with_memory_of_its_own_has_the_hosts_besides(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hardware.spare_host_bytes(CPU) == 0
    monkeypatch.setattr(hardware, "container_memory", lambda: 4000)
    assert hardware.spare_host_bytes(torch.device("cuda")) == 1000
    monkeypatch.setattr(hardware, "container_memory", lambda: None)
    assert hardware.spare_host_bytes(torch.device("cuda")) > 1000


def test_a_small_network_decodes_in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    assert hardware.decode_threads(16_400_000 * 4) == 1
    assert hardware.decode_threads(1_960_000_000 * 4) == 6


def test_torch_gets_no_more_threads_than_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: used[-1] if used else 64)
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(hardware, "container_quota", lambda: 2.0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert hardware.limit_threads() == 2
    used.clear()
    monkeypatch.setattr(hardware, "container_quota", lambda: None)
    assert hardware.limit_threads() == 64


@pytest.mark.parametrize("size", [1, 1001, 2**20])
def test_a_copy_of_any_size_has_a_speed_and_leaves_the_threads_alone(size: int) -> None:
    threads = torch.get_num_threads()
    rates = hardware.copy_rates(size, CPU, runs=3, moved=2**20)
    assert len(rates) == 3 and min(rates) > 0
    assert hardware.quick_bandwidth(size, CPU, threads=1) > 0
    assert torch.get_num_threads() == threads
