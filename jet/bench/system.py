"""Describe the hardware and library versions behind a measurement."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import torch

from jet import hardware
from jet.version import __version__

_LIBRARIES = ("torch", "transformers", "triton", "flash-linear-attention")


def describe_machine(device: torch.device) -> dict[str, str | int | float | None]:
    """Return device, system and versions of libraries; None for those that this machine does not have."""
    described: dict[str, str | int | float | None] = {
        "device": str(device),
        "device_name": hardware.device_name(device),
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "jet": __version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
    }
    return described | {name: _version(name) for name in _LIBRARIES}


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
