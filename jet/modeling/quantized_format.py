"""The format of quantized checkpoints: the scheme in `config.json`, and the names of tensors in files.

A matrix `NAME.weight` is stored as `NAME.qweight`, its codes, and `NAME.scales`, as `jet.ops.quantization`
defines both. All other tensors are stored as in any checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from jet.ops.quantization import GROUP_SIZE, INT4, SCHEMES

METHOD, VERSION = "jet", 1
WEIGHT, CODES, SCALES = ".weight", ".qweight", ".scales"
_MODULES = {
    ".quantized_weight.qweight": CODES,
    ".quantized_weight.scales": SCALES,
}  # names in modules → names in files


def describe_scheme(scheme: str) -> dict[str, Any]:
    """Return the `quantization_config` of a checkpoint whose weights are quantized by `scheme`."""
    described: dict[str, Any] = {"quant_method": METHOD, "scheme": scheme, "version": VERSION}
    return described | ({"group_size": GROUP_SIZE} if scheme == INT4 else {})


def read_scheme(described: Any) -> str | None:
    """Read the scheme of a `quantization_config`; None for a checkpoint that is not quantized.

    Raises ValueError for a scheme or a version that this package does not know.
    """
    if described is None:
        return None
    values = described if isinstance(described, Mapping) else described.to_dict()
    method, scheme = values.get("quant_method"), values.get("scheme")
    if method != METHOD:
        raise ValueError(
            f"quantization_config names the method {method!r}, which is not read here. Take the checkpoint "
            "that it was made from, and quantize it with python -m jet.quantize."
        )
    if scheme not in SCHEMES or values.get("group_size", GROUP_SIZE) != GROUP_SIZE:
        raise ValueError(f"quantization_config names {scheme!r}: only {' and '.join(SCHEMES)} are known.")
    if values.get("version") != VERSION:
        raise ValueError(
            f"quantization_config is of version {values.get('version')!r}, and this package reads version "
            f"{VERSION}. Install a newer one, or quantize the checkpoint again."
        )
    return str(scheme)


def stored_name(name: str) -> str:
    """Return the name in files of a network's tensor `name`."""
    for own, stored in _MODULES.items():
        if name.endswith(own):
            return name.removesuffix(own) + stored
    return name


def stored_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a network's tensors by their names in files."""
    return {stored_name(name): tensor for name, tensor in state.items()}


def renamings() -> list[tuple[str, str]]:
    """Return pairs: a regular expression for names in files, and its replacement in the network."""
    return [(rf"^(.+)\{stored}$", rf"\1{own}") for own, stored in _MODULES.items()]
