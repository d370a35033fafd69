"""KeptLogits: the logits of sequences' last steps, from before the sampler writes penalties into them.

Rollback draws a token again from them, and a finished request's snapshot stores them. Where steps are
launched ahead, they belong to a position and not to what the host has seen, so each is kept with its own.
"""

from __future__ import annotations

from collections import abc

from torch import Tensor

from jet.engine.sequence import Sequence

MARKED_ROWS = 8  # rows of a batch whose states are marked at every step; copying more states costs too much


class KeptLogits:
    """Logits `[1, V]` of sequences, at most one each."""

    def __init__(self) -> None:
        self._logits: dict[Sequence, tuple[int, Tensor]] = {}

    def begin(self, sequences: abc.Iterable[Sequence]) -> None:
        """Forget what is kept of sequences whose next step is launched."""
        for sequence in sequences:
            self._logits.pop(sequence, None)

    def keep(self, sequence: Sequence, logits: Tensor) -> None:
        """Copy the logits of a step that is being launched, behind everything launched so far."""
        self._logits[sequence] = sequence.num_computed_tokens + 1, logits.clone()

    def get(self, sequence: Sequence) -> Tensor | None:
        """Return the logits of what follows the sequence's computed tokens; None if they are not kept."""
        length, logits = self._logits.get(sequence, (-1, None))
        return logits if length == sequence.num_computed_tokens else None


def rows_to_keep(sequences: abc.Sequence[Sequence]) -> list[int]:
    """Return the rows of a batch whose logits a rollback may need: those with marks at every step."""
    few = len(sequences) <= MARKED_ROWS
    return [row for row, one in enumerate(sequences) if one.guarded] if few else []
