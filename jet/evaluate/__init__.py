"""Evaluate a model: bits per byte of a text file, quality of its stories, and use of guidance.

    python -m jet.evaluate --model assets/story-model FILE
    python -m jet.evaluate stories --model assets/story-model
    python -m jet.evaluate world --model assets/story-model

`compression` measures bits per byte, `stories` the stories of a model, and `world` the use of memory, note
and lore. `measures` has the rules for a single story, as plain functions of its text; `judging` applies them
to many stories.
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
