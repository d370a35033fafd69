"""Recipe: every hyperparameter of the trained model, in one frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Shape of the network and hyperparameters of its training. The defaults are those of the second edition.

    Attributes:
        pattern: one letter a layer: `j` jet, `a` full attention, `s` sliding window.
        window: keys a query of an `s` layer sees.
        length: tokens of one training row; rows are cut from shuffled stories laid end to end.
        batch: rows of one step.
        micro_batch: rows that are on the device at once; `batch` must be a multiple.
        matrix_rate, vector_rate: peak learning rates of Muon (matrices) and AdamW (the rest).
        matrix_decay, vector_decay: decoupled weight decay, times the learning rate.
        dropout: on the embedding and on what each layer adds to the residual stream; only in training.
        warm_up: part of the run in which the rates rise; then they fall in a line to zero.
        classics_first, classics_last: share of classic tales in a batch at the start and at the end.
        average: share of the weights' moving average that a step keeps.
        quantized: last part of the run, trained on the weights as they will be quantized, without classics.
        stress: weight of a token by which something told comes true.
        future: weight of the loss for the token after the next, at the start; it falls in a line to zero.
        seed: of weights, data, and dropout.
    """

    hidden: int = 640
    intermediate: int = 1920
    pattern: str = "jjjajsjaj"
    heads: int = 10
    key_value_heads: int = 2
    jet_heads: int = 6
    jet_head_dim: int = 64
    jet_expand: float = 2.0
    window: int = 256
    rope_theta: float = 10_000.0
    length: int = 4096
    batch: int = 32
    micro_batch: int = 32
    matrix_rate: float = 0.02
    vector_rate: float = 0.003
    matrix_decay: float = 0.2
    vector_decay: float = 0.1
    dropout: float = 0.1
    warm_up: float = 0.02
    classics_first: float = 0.45
    classics_last: float = 0.1
    average: float = 0.995
    quantized: float = 0.15
    stress: float = 4.0
    future: float = 0.0
    seed: int = 20

    def __post_init__(self) -> None:
        if self.batch % self.micro_batch:
            raise ValueError(f"batch {self.batch} is not a multiple of micro_batch {self.micro_batch}.")
        if set(self.pattern) - set("jas") or not self.pattern:
            raise ValueError(f"pattern {self.pattern!r} may only hold j (jet), a (attention) and s (window).")

    def rate(self, progress: float) -> float:
        """Return the learning rate at this part of the run as a share of the peak, 0 to 1."""
        return min(progress / self.warm_up if self.warm_up else 1.0, 1.0) * max(0.0, 1.0 - progress)

    def classics(self, progress: float) -> float:
        """Return the share of classic tales in a batch at this part of the run."""
        if self.is_quantized(progress):
            return 0.0
        return self.classics_first + (self.classics_last - self.classics_first) * min(progress, 1.0)

    def is_quantized(self, progress: float) -> bool:
        """Return whether this part of the run is trained on rounded weights."""
        return progress > 1.0 - self.quantized
