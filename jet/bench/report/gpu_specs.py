"""Data of GPUs from their makers' data sheets, not measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GpuSpec:
    """A GPU's memory bandwidth in bytes a second, memory in bytes, and dense half-precision FLOP/s."""

    name: str
    bandwidth: float
    memory: float
    throughput: float


GPU_SPECS = (
    GpuSpec("RTX 3060 Laptop", 336e9, 6e9, 51e12),
    GpuSpec("RTX 4090", 1008e9, 24e9, 165e12),
    GpuSpec("T4", 320e9, 16e9, 65e12),
    GpuSpec("L4", 300e9, 24e9, 121e12),
    GpuSpec("A100 80GB", 2039e9, 80e9, 312e12),
    GpuSpec("H100 SXM", 3350e9, 80e9, 989e12),
    GpuSpec("H200", 4800e9, 141e9, 989e12),
)
# What drivers call these cards; the first whose words all occur in a device's name is it.
_NAME_PARTS = {
    "RTX 3060 Laptop": ("3060", "Laptop"),
    "RTX 4090": ("RTX 4090",),
    "T4": ("Tesla T4",),
    "L4": ("NVIDIA L4",),
    "A100 80GB": ("A100", "80GB", "SXM"),
    "H100 SXM": ("H100", "HBM3"),
    "H200": ("H200",),
}


def find_gpu_spec(device_name: str) -> GpuSpec | None:
    """Return the data of a GPU by the name that its driver reports; None if it is not in the list."""
    if "Laptop" in device_name and "3060" not in device_name:
        return None
    for spec in GPU_SPECS:
        if all(word in device_name for word in _NAME_PARTS[spec.name]):
            return None if spec.name == "L4" and not device_name.strip().endswith("L4") else spec
    return None
