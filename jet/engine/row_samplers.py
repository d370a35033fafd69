"""RowSamplers: a request's samplers as the device applies them, if the kernels support their order.

The kernels apply top-nσ, temperature, typical sampling, top-k, top-p, min-p and XTC in this order, or with
the temperature after min-p, as llama.cpp and KoboldAI do. The position of a sampler that changes nothing does
not matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from jet.api import SamplingParams
from jet.ops.decode_batch import LEAST_ADAPTIVE_MIN_P, LEAST_XTC_THRESHOLD, FinalSettings
from jet.ops.sampler_chain import ORDER

LATE_ORDER = ("top_n_sigma", "typical_p", "top_k", "top_p", "min_p", "temperature", "xtc")


class RowSamplers(NamedTuple):
    """One row's settings on the device, off by default; units as in `jet.api.SamplingParams`."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    top_n_sigma: float = 0.0
    typical_p: float = 1.0
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    final: FinalSettings = FinalSettings()

    @property
    def uses_shape(self) -> bool:
        """Return whether the samplers of `jet.ops.triton.shape_logits` are in use."""
        return self.top_n_sigma > 0 or self.typical_p < 1 or self.dynatemp_range > 0

    @property
    def uses_final(self) -> bool:
        """Return whether the samplers of `jet.ops.triton.final_samplers` are in use."""
        final = self.final
        return (
            final.xtc_probability > 0
            or final.adaptive_target >= 0
            or final.mirostat_tau >= 0
            or final.temperature != 1
        )


def row_samplers(sampling: SamplingParams) -> RowSamplers | None:
    """Return a request's samplers as settings of a row; None if the host must draw the request's tokens."""
    if sampling.temperature == 0:
        return RowSamplers(temperature=0.0)
    if sampling.mirostat:  # instead of all others but the temperature, in any order
        final = FinalSettings(mirostat_tau=sampling.mirostat_tau, mirostat_eta=sampling.mirostat_eta)
        return RowSamplers(
            sampling.temperature,
            dynatemp_range=sampling.dynatemp_range,
            dynatemp_exponent=sampling.dynatemp_exponent,
            final=final,
        )
    active = _active(sampling)
    late = 1.0
    if not _follows(active, ORDER):
        if sampling.dynatemp_range > 0 or not _follows(active, LATE_ORDER):
            return None
        late = sampling.temperature
    heats = "temperature" in active
    row = RowSamplers(
        temperature=sampling.temperature if heats and late == 1 else 1.0,
        top_k=sampling.top_k if "top_k" in active else 0,
        top_p=sampling.top_p if "top_p" in active else 1.0,
        min_p=sampling.min_p if "min_p" in active else 0.0,
        top_n_sigma=sampling.top_n_sigma if "top_n_sigma" in active else 0.0,
        typical_p=sampling.typical_p if "typical_p" in active else 1.0,
        dynatemp_range=sampling.dynatemp_range if heats else 0.0,
        dynatemp_exponent=sampling.dynatemp_exponent,
        final=FinalSettings(
            sampling.xtc_probability if "xtc" in active else 0.0,
            sampling.xtc_threshold,
            sampling.adaptive_target,
            sampling.adaptive_decay,
            temperature=late,
        ),
    )
    return row if _is_exact(row) else None


def _active(sampling: SamplingParams) -> list[str]:
    """Return the samplers that change anything, in the order to apply them."""
    order = sampling.sampler_order.split(";") if sampling.sampler_order else ORDER
    acts = {
        "top_n_sigma": sampling.top_n_sigma > 0,
        "temperature": sampling.temperature != 1 or sampling.dynatemp_range > 0,
        "typical_p": sampling.typical_p < 1,
        "top_k": sampling.top_k > 0,
        "top_p": sampling.top_p < 1,
        "min_p": sampling.min_p > 0,
        "xtc": sampling.xtc_probability > 0,
    }
    return [name for name in order if acts[name]]


def _follows(names: Sequence[str], order: Sequence[str]) -> bool:
    return list(names) == sorted(names, key=order.index)


def _is_exact(row: RowSamplers) -> bool:
    """Return whether the kernels' weights, multiples of 2**-44, are precise enough for a row's settings."""
    final = row.final
    if final.xtc_probability > 0 and final.xtc_threshold < LEAST_XTC_THRESHOLD:
        return False
    reach = math.log(row.min_p) if row.min_p > 0 else -math.inf  # of the least likely token's logit
    least = math.log(LEAST_ADAPTIVE_MIN_P)
    if final.adaptive_target >= 0 and min(reach, reach / final.temperature) < least:
        return False
    # Top-k alone may keep tokens that weigh nothing before a late temperature makes them likelier.
    return final.temperature <= 1 or row.top_k == 0 or row.top_p < 1 or reach >= least
