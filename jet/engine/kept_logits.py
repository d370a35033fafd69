"""KeptLogits: the logits of sequences' last steps, from before the sampler writes penalties into them.

A rollback draws a token again from these logits, and the snapshot of a finished request stores them. If steps
are launched ahead, the host does not know yet which tokens they have drawn. So the logits are kept together
with the number of tokens that they follow.
"""

from __future__ import annotations

from collections import abc

from torch import Tensor

from jet.engine.sequence import Sequence

MARKED_ROWS = 8  # rows of a batch whose states are marked at every step; copying more states costs too much


class KeptLogits:
    """Logits `[1, V]` of sequences; at most the last step's for each sequence."""

    def __init__(self) -> None:
        self._logits: dict[Sequence, tuple[int, Tensor]] = {}

    def begin(self, sequences: abc.Iterable[Sequence]) -> None:
        """Drop the logits of sequences whose next step is about to be launched."""
        for sequence in sequences:
            self._logits.pop(sequence, None)

    def keep(self, sequence: Sequence, logits: Tensor) -> None:
        """Copy a sequence's logits `[1, V]` of the step that is being launched.

        The copy runs on the device after everything that has been launched before.
        """
        self._logits[sequence] = sequence.num_computed_tokens + 1, logits.clone()

    def get(self, sequence: Sequence) -> Tensor | None:
        """Return the logits of the token after the sequence's computed tokens; None if they are not kept."""
        length, logits = self._logits.get(sequence, (-1, None))
        return logits if length == sequence.num_computed_tokens else None


def rows_to_keep(sequences: abc.Sequence[Sequence]) -> list[int]:
    """Return the rows whose logits a rollback may need: guarded ones, if the batch has few enough rows.

    Only in batches of up to `MARKED_ROWS` rows is a state marked at every step.
    """
    few = len(sequences) <= MARKED_ROWS
    return [row for row, one in enumerate(sequences) if one.guarded] if few else []
