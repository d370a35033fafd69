"""Published figures with the hardware they were measured on, quoted beside the measured ones."""

from __future__ import annotations

BASELINE_REPORT_HARDWARE = "RTX 3060 Laptop, Jet-Nemotron-2B, bfloat16"
# The table of the report that this project began with.
BASELINE_REPORT = {
    "load": "37 … 57 s",
    "warm_up": "16 … 18 s",
    "first_token": "not given",
    "generation": "18.7 s",
    "speed": "10.7 tok/s",
    "memory": "3.91 GB",
}

PAPER = "arXiv 2508.15884, one H100, bfloat16"
# Jet-Nemotron-2B over Qwen3-1.7B, each at the largest batch that fits: tokens of context → prefill, decode.
PAPER_SPEED_UP = {
    4096: (1.14, 15.6),
    8192: (1.15, 23.3),
    16384: (1.37, 39.6),
    32768: (1.74, 44.1),
    65536: (2.54, 47.5),
    131072: (4.03, 51.6),
    262144: (6.14, 53.6),
}
# Tokens a second at 64K: network → speed, batch.
PAPER_64K = {
    "Jet-Nemotron-2B": (2885, 128),
    "Jet-Nemotron-4B": (1271, 64),
    "Qwen3-1.7B": (61, None),
    "Qwen2.5-1.5B": (241, None),
}
