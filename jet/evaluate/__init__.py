"""Evaluate a model: bits per byte of a text file, what its stories are like, and which guidance it heeds.

    python -m jet.evaluate --model assets/story-model FILE
    python -m jet.evaluate stories --model assets/story-model
    python -m jet.evaluate world --model assets/story-model

`compression` measures bits per byte, `stories` a storyteller, and `world` memory, note and lore. `measures`
has the rules by which a single story is judged, as plain functions of its text, `judging` those of many.
"""

from __future__ import annotations

from jet.evaluate.compression import (
    EvaluationError,
    Score,
    batches,
    evaluate,
    load,
    main,
    quickest_dtype,
    read_documents,
    to_tokens,
    total_nats,
)

__all__ = [
    "EvaluationError",
    "Score",
    "batches",
    "evaluate",
    "load",
    "main",
    "quickest_dtype",
    "read_documents",
    "to_tokens",
    "total_nats",
]
