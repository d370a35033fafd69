"""Sizes of jet layers for tests of kernels."""

from __future__ import annotations

from jet.ops.reference import JetSizes

# heads, key, value, generator, width: the 2B network's proportions, and awkward ones.
JET_SIZES = [
    JetSizes(2, 96, 32, 48, 4),
    JetSizes(3, 20, 16, 10, 4),
    JetSizes(1, 7, 24, 33, 2),
    JetSizes(2, 33, 17, 5, 3),
    JetSizes(1, 256, 16, 16, 8),
    JetSizes(3, 64, 128, 48, 4),
    JetSizes(2, 8, 9, 7, 1),
]
