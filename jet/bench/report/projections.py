"""Section 6: what other cards could do, by arithmetic: their bandwidth over the bytes of a token.

Nothing here is measured on those cards. Where this run was on a GPU, the share of the ceiling that was
reached here is taken for theirs too; smaller networks and faster cards reach less, as launches weigh more.
"""

from __future__ import annotations

from typing import Any

from jet.bench.options import BenchError
from jet.bench.report.context import Bench
from jet.bench.report.gpu_specs import CARDS

_MIB = 2**20
# Bytes of a token of Jet-Nemotron-2B, bfloat16, after 512: weights, states, half a window, keys and values.
OFFICIAL_2B = round(3.93e9 + 2 * (27 + 0.56) * _MIB + 2.25 * _MIB / 2 + 512 * 2 * 1024)


def measure(bench: Bench) -> dict[str, Any]:
    """Project this network, the same with a byte a weight, and the official 2B."""
    standing = bench.report.data("standing")
    if standing is None:
        raise BenchError(f"there is nothing to project from: {bench.report.reason('standing')}")
    share = standing["shares"]["engine"] if bench.device.type == "cuda" else None
    floor = standing["floor"]
    sizes = {
        "this network as it runs here": floor["total"],
        "this network, one byte a weight": floor["total"] - floor["weights"] + standing["elements"],
        "Jet-Nemotron-2B, bfloat16": OFFICIAL_2B,
    }
    return {"share": share, "networks": {name: project(size, share) for name, size in sizes.items()}}


def project(size: int, share: float | None) -> dict[str, Any]:
    """Tokens a second on every card whose token moves `size` bytes."""
    rows = [
        {
            "card": card.name,
            "bandwidth": card.bandwidth,
            "fits": size < card.memory,
            "ceiling": card.bandwidth / size,
            "projected": None if share is None else share * card.bandwidth / size,
        }
        for card in CARDS
    ]
    return {"bytes": size, "rows": rows}
