"""DecodeBatch: the sampling parameters and the state of each row of a decode batch, on the device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

STOPS_TOGETHER = 4  # stop ids


class FinalSettings(NamedTuple):
    """One row's settings of the samplers behind the filters, in the order of `DecodeBatch.final_settings`.

    Attributes:
        xtc_probability: 0 is off.
        xtc_threshold: as in `jet.api.SamplingParams`, at least `LEAST_XTC_THRESHOLD`.
        adaptive_target: negative is off. Otherwise min-p must be at least `LEAST_ADAPTIVE_MIN_P`.
        adaptive_decay: as in `jet.api.SamplingParams`.
        mirostat_tau: negative is off. Filters and the other samplers here must then be off.
        mirostat_eta: as in `jet.api.SamplingParams`.
        temperature: divides the logits behind the filters and before XTC; 1 is off. `DecodeBatch.temperature`
            must then be 1.
    """

    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    adaptive_target: float = -1.0
    adaptive_decay: float = 0.0
    mirostat_tau: float = -1.0
    mirostat_eta: float = 0.0
    temperature: float = 1.0


# Weights are multiples of 2**-44. From these values on, XTC compares weights with a relative error of 1e-7 at
# most, and adaptive-p, which makes unlikely tokens likelier, has no token whose weight is 0.
LEAST_XTC_THRESHOLD = 1e-6
LEAST_ADAPTIVE_MIN_P = 1e-9


@dataclass(frozen=True)
class SamplerFlags:
    """The filters that at least one row of a batch uses. Code and kernels for all other filters are left out.

    Attributes:
        uses_min_tokens: whether stop tokens are forbidden for any row.
        uses_shape: whether any row uses top-nσ, typical sampling or dynamic temperature.
        uses_final: whether any row uses XTC, adaptive-p, mirostat or a late temperature. Needs `uses_top_p`.
    """

    uses_penalty: bool = True
    uses_top_k: bool = True
    uses_top_p: bool = True
    uses_min_tokens: bool = False
    uses_shape: bool = False
    uses_final: bool = False


@dataclass(frozen=True)
class DecodeBatch:
    """Sampling parameters and state of each row; all tensors are `[B]` except the last three.

    Attributes:
        temperature: float32; 0 takes the likeliest token, of equal ones the one with the lowest id.
        top_k: int32; 0 keeps all.
        top_p: float32, above 0; 1 keeps all.
        min_p: float32; 0 keeps all.
        repetition_penalty: float32, above 0; 1 changes nothing.
        seed: int64, not negative.
        step: int64, the number of tokens drawn with this seed; each step increments it.
        min_tokens: int64; stop tokens are excluded while `step` is smaller.
        position: int32, the number of tokens before `token`; each step increments it.
        slot: int32, the row's index in all states and in the token mask. A stop token sets it to `null_slot`,
            so that a step already launched changes no state.
        active: uint8; a row with 0 is skipped: its other fields are neither read nor written.
        token: int64, the token drawn last.
        status: int32; set to 1 if the largest logit is not finite; the other fields then stay unchanged.
        final_settings: float64 `[B, 7]`, `FinalSettings`; read if `SamplerFlags.uses_final`.
        sampler_state: float64 `[B, 2]`, updated by each drawn token: mirostat's mu in bits, and 0; or
            adaptive-p's weighted sum of probabilities, and its sum of weights.
        stop_ids: int64 `[N]`, the stop tokens, padded with -1.
        null_slot: the slot of padding rows.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    repetition_penalty: Tensor
    seed: Tensor
    step: Tensor
    min_tokens: Tensor
    position: Tensor
    slot: Tensor
    active: Tensor
    token: Tensor
    status: Tensor
    final_settings: Tensor
    sampler_state: Tensor
    stop_ids: Tensor
    null_slot: int

    @classmethod
    def make(
        cls,
        batch: int,
        device: torch.device | str,
        stop_ids: Iterable[int] = (),
        null_slot: int | None = None,
    ) -> DecodeBatch:
        """Create a batch of inactive rows with neutral sampling parameters; row i uses slot i.

        `null_slot` defaults to `batch`.
        """

        def full(value: float, dtype: torch.dtype) -> Tensor:
            return torch.full((batch,), value, dtype=dtype, device=device)

        return cls(
            temperature=full(1, torch.float32),
            top_k=full(0, torch.int32),
            top_p=full(1, torch.float32),
            min_p=full(0, torch.float32),
            repetition_penalty=full(1, torch.float32),
            seed=full(0, torch.int64),
            step=full(0, torch.int64),
            min_tokens=full(0, torch.int64),
            position=full(0, torch.int32),
            slot=torch.arange(batch, dtype=torch.int32, device=device),
            active=full(0, torch.uint8),
            token=full(0, torch.int64),
            status=full(0, torch.int32),
            final_settings=torch.tensor([FinalSettings()] * batch, dtype=torch.float64, device=device),
            sampler_state=torch.zeros(batch, 2, dtype=torch.float64, device=device),
            stop_ids=_padded_stops(stop_ids, device),
            null_slot=batch if null_slot is None else null_slot,
        )

    def first(self, count: int) -> DecodeBatch:
        """Return a batch of the first `count` rows, which shares their memory."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        rows = {
            name: value[:count] for name, value in values.items() if name not in ("stop_ids", "null_slot")
        }
        return replace(self, **rows)


def _padded_stops(stops: Iterable[int], device: torch.device | str) -> Tensor:
    """Return the stop ids, padded with -1 to a multiple of `STOPS_TOGETHER`, as int64.

    With the common length, most models use the same compiled kernels.
    """
    ids = sorted(stops)
    missing = -len(ids) % STOPS_TOGETHER or (0 if ids else STOPS_TOGETHER)
    return torch.tensor([*ids, *[-1] * missing], dtype=torch.int64, device=device)
