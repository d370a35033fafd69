"""Section 6: projected decode rates of other GPUs: their bandwidth divided by the bytes of a token.

Nothing here is measured on those GPUs. If this run was on a GPU, its bandwidth utilization is assumed for
them, too; smaller networks and faster GPUs reach less, since launches take a larger part of the time.
"""

from __future__ import annotations

from typing import Any

from jet.bench.options import BenchError
from jet.bench.report.context import RunContext
from jet.bench.report.gpu_specs import GPU_SPECS

_MIB = 2**20
# Bytes of a token of Jet-Nemotron-2B, bfloat16, after 512: weights, states, half a window, keys and values.
OFFICIAL_2B = round(3.93e9 + 2 * (27 + 0.56) * _MIB + 2.25 * _MIB / 2 + 512 * 2 * 1024)


def measure(ctx: RunContext) -> dict[str, Any]:
    """Project this network, this network with one byte per weight, and the official 2B."""
    efficiency = ctx.report.data("standing")
    if efficiency is None:
        raise BenchError(f"there is nothing to project from: {ctx.report.reason('standing')}")
    share = efficiency["shares"]["engine"] if ctx.device.type == "cuda" else None
    floor = efficiency["floor"]
    sizes = {
        "this network as it runs here": floor["total"],
        "this network, one byte a weight": floor["total"] - floor["weights"] + efficiency["elements"],
        "Jet-Nemotron-2B, bfloat16": OFFICIAL_2B,
    }
    return {"share": share, "networks": {name: project(size, share) for name, size in sizes.items()}}


def project(size: int, share: float | None) -> dict[str, Any]:
    """Return, for each GPU in GPU_SPECS, whether a network of `size` bytes fits, and its highest tok/s.

    `share`: the bandwidth utilization to assume for the projected tok/s. If it is None, "projected" is None.
    """
    rows = [
        {
            "card": spec.name,
            "bandwidth": spec.bandwidth,
            "fits": size < spec.memory,
            "ceiling": spec.bandwidth / size,
            "projected": None if share is None else share * spec.bandwidth / size,
        }
        for spec in GPU_SPECS
    ]
    return {"bytes": size, "rows": rows}
