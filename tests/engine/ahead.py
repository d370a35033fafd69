"""A decoder for tests that launches steps ahead on a CPU, as CUDA graphs do."""

from __future__ import annotations

from collections import abc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from jet.engine import model_runner as runner_module
from jet.engine.decoder import EagerDecoder
from jet.engine.kept_logits import KeptLogits, rows_to_keep
from jet.engine.sequence import Sequence
from jet.engine.step_output import StepFuture


class AheadDecoder(EagerDecoder):
    """Keeps the last token of each row itself while the batch stays the same, as a GPU does."""

    overlaps = True

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._rows: list[Sequence] = []
        self._tokens: dict[Sequence, int] = {}
        self._kept = KeptLogits()
        self._stops = set(self._special_tokens.stop_ids.tolist())
        self.launched_ahead = 0

    def launch(self, sequences: abc.Sequence[Sequence]) -> list[StepFuture]:
        if self._rows != list(sequences):
            self._rows = list(sequences)
            self._tokens = {one: one.last_token or 0 for one in sequences}
        else:
            self.launched_ahead += 1
        logits = self._run_rows(sequences).split(1)
        self._kept.begin(sequences)
        for row in rows_to_keep(sequences):
            self._kept.keep(sequences[row], logits[row])
        futures = [self._sample(*row) for row in zip(sequences, logits, strict=True)]
        for one, future in zip(sequences, futures, strict=True):
            if self._tokens[one] not in self._stops:  # of a text that has ended, nothing is drawn
                self._tokens[one] = future.result()[0]
        return futures

    def _run_rows(self, sequences: abc.Sequence[Sequence]) -> Tensor:
        rows, step = self._batch(len(sequences))
        ended = [self._tokens[one] in self._stops for one in sequences]
        null = self._pool.null_slot
        rows.token.copy_(torch.tensor([self._tokens[one] for one in sequences]))
        rows.position.copy_(torch.tensor([one.num_computed_tokens for one in sequences]))
        slots = [null if end else one.slot for one, end in zip(sequences, ended, strict=True)]
        rows.slot.copy_(torch.tensor(slots))
        step.run()
        return step.logits

    def compute_logits(self, sequence: Sequence) -> Tensor:
        self._rows = []
        return super().compute_logits(sequence)

    def last_logits(self, sequence: Sequence) -> Tensor | None:
        return self._kept.get(sequence)

    def can_overlap(self, sequences: abc.Sequence[Sequence]) -> bool:
        return True

    def batch_is_on_device(self, sequences: abc.Sequence[Sequence]) -> bool:
        return self._rows == list(sequences)

    def remove(self, sequence: Sequence) -> None:
        super().remove(sequence)
        self._kept.begin([sequence])
        if sequence in self._rows:
            self._rows = []


@contextmanager
def decoding_ahead(ahead: bool = True) -> Iterator[None]:
    """Make runners that are created in the block launch their steps ahead, or not if `ahead` is False."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner_module, "make_decoder", AheadDecoder if ahead else EagerDecoder)
        yield
