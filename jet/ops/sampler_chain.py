"""Samplers beyond top-k, top-p and min-p, and samplers in another order: for one row, in float64.

A row is the float64 logits `[V]` of all tokens, -inf for those that a sampler has removed. At least the
likeliest token stays. `docs/samplers.md` has every definition with its source; the order is `ORDER` unless
the caller names another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jet.ops.sampling import NOT_A_NUMBER, exclude_top_choices

ORDER = ("top_n_sigma", "temperature", "typical_p", "top_k", "top_p", "min_p", "xtc")

# Of adaptive-p, by its author: how near to the target counts as near, the logit there, how fast it falls.
ADAPTIVE_WIDTH, ADAPTIVE_PEAK, ADAPTIVE_SHARPNESS = 0.3, 5.0, 10.0


@dataclass(frozen=True)
class ChainSettings:
    """Settings of the samplers of a chain; the defaults are off. Units as in `jet.api.SamplingParams`."""

    temperature: float = 1.0
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_n_sigma: float = 0.0
    typical_p: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    xtc_threshold: float | None = None
    order: Sequence[str] = ORDER


def filter_row(row: Tensor, settings: ChainSettings, special: Tensor | None = None) -> Tensor:
    """Apply a chain to float64 logits `[V]`; -inf for removed tokens.

    `special` (bool `[V]`): tokens that XTC must not exclude. Raises FloatingPointError if the largest logit
    is not finite.
    """
    if not math.isfinite(float(row.max())):
        raise FloatingPointError(NOT_A_NUMBER)
    steps: dict[str, Callable[[Tensor], Tensor]] = {
        "top_n_sigma": lambda row: top_n_sigma(row, settings.top_n_sigma),
        "temperature": lambda row: heat(row, settings),
        "typical_p": lambda row: typical(row, settings.typical_p),
        "top_k": lambda row: top_k(row, settings.top_k),
        "top_p": lambda row: top_p(row, settings.top_p),
        "min_p": lambda row: min_p(row, settings.min_p),
        "xtc": lambda row: xtc(row, settings.xtc_threshold, special),
    }
    for name in settings.order:
        row = steps[name](row)
    return row


def top_n_sigma(row: Tensor, n: float) -> Tensor:
    """Keep logits at most `n` standard deviations below the largest; 0 keeps all."""
    if n <= 0:
        return row
    kept = row[row > -math.inf]
    return row.masked_fill(row < row.max() - n * kept.std(correction=0), -math.inf)


def heat(row: Tensor, settings: ChainSettings) -> Tensor:
    """Divide by the temperature: a fixed one, or with dynamic temperature one that grows with the entropy."""
    temperature = settings.temperature
    if settings.dynatemp_range > 0:
        count = int((row > -math.inf).sum())
        if count <= 1:
            return row
        low = max(0.0, temperature - settings.dynatemp_range)
        share = max(0.0, float(entropy(row)) / math.log(count))
        temperature = low + (temperature + settings.dynatemp_range - low) * share**settings.dynatemp_exponent
    return (row - row.max()) / max(temperature, torch.finfo(torch.float32).tiny)


def entropy(row: Tensor) -> Tensor:
    """Return the entropy of a row in nats."""
    probabilities = row.softmax(-1)
    found: Tensor = -torch.special.xlogy(probabilities, probabilities).sum()
    return found


def typical(row: Tensor, mass: float) -> Tensor:
    """Keep the tokens whose surprise is nearest to the entropy, until their probabilities sum to `mass`.

    Tokens at the same distance are kept or removed together.
    """
    if mass >= 1:
        return row
    logprobs = row.log_softmax(-1)
    distance = (-logprobs - entropy(row)).abs()
    nearest, order = distance.sort()
    last = int((logprobs[order].exp().cumsum(-1) < mass).sum())
    return row.masked_fill(distance > nearest[min(last, len(row) - 1)], -math.inf)


def top_k(row: Tensor, count: int) -> Tensor:
    """Keep the `count` likeliest tokens, and those equal to the last; 0 keeps all."""
    if not 0 < count < len(row):
        return row
    return row.masked_fill(row < row.topk(count).values[-1], -math.inf)


def top_p(row: Tensor, mass: float) -> Tensor:
    """Keep a token if the likelier ones have less than `mass`; of equal ones the first come first."""
    if mass >= 1:
        return row
    values, order = row.sort(descending=True, stable=True)
    probabilities = values.softmax(-1)
    removed = probabilities.cumsum(-1) - probabilities >= mass
    removed[0] = False
    return row.masked_fill(torch.zeros_like(removed).scatter(0, order, removed), -math.inf)


def min_p(row: Tensor, fraction: float) -> Tensor:
    """Keep tokens at least `fraction` as likely as the likeliest."""
    return row.masked_fill(row - row.max() < math.log(fraction), -math.inf) if fraction > 0 else row


def xtc(row: Tensor, threshold: float | None, special: Tensor | None) -> Tensor:
    """Exclude top choices, if `threshold` is not None; see `jet.ops.sampling.exclude_top_choices`."""
    if threshold is None:
        return row
    values, order = row.sort(descending=True, stable=True)
    weights = (values - values[0]).exp()
    kept = exclude_top_choices(weights[None], threshold, None if special is None else special[order][None])[0]
    removed = torch.zeros_like(row, dtype=torch.bool).scatter(0, order, kept == 0)
    return row.masked_fill(removed, -math.inf)


def mirostat(row: Tensor, mu: float) -> Tensor:
    """Keep the tokens whose surprise is at most `mu` bits, or the likeliest alone."""
    surprise = -row.log_softmax(-1) / math.log(2)
    removed = (surprise > mu) & (row < row.max())
    if bool(surprise.min() > mu):
        removed[:] = True
        removed[row.argmax()] = False
    return row.masked_fill(removed, -math.inf)


def next_mu(mu: float, kept: Tensor, token: int, tau: float, eta: float) -> float:
    """Return mirostat's next `mu` after a token was drawn from the `kept` row."""
    return mu - eta * (-float(kept.log_softmax(-1)[token]) / math.log(2) - tau)


@dataclass(frozen=True)
class AdaptiveState:
    """Adaptive-p's moving average of the probabilities of drawn tokens, as a sum and its weights."""

    weighted_sum: float
    total_weight: float

    @classmethod
    def start(cls, target: float, decay: float) -> AdaptiveState:
        """Return the state as if all tokens so far had had the target probability."""
        return cls(target / (1 - decay), 1 / (1 - decay))

    def after(self, probability: float, decay: float) -> AdaptiveState:
        """Return the state after a token was drawn.

        `probability`: the token's probability before the transformation.
        """
        return AdaptiveState(probability + decay * self.weighted_sum, 1 + decay * self.total_weight)


def adapt(row: Tensor, target: float, state: AdaptiveState) -> Tensor:
    """Make the tokens likely whose probability is near a target that makes up for the last ones."""
    aim = min(1.0, max(0.0, 2 * target - state.weighted_sum / state.total_weight))
    distance = (row.softmax(-1) - aim).abs() / ADAPTIVE_WIDTH
    logits = ADAPTIVE_PEAK - ADAPTIVE_SHARPNESS * distance**2 / (1 + distance)
    return logits.masked_fill(row == -math.inf, -math.inf)


def draw_from(row: Tensor, chance: float) -> int:
    """Return the token that a number in [0, 1) falls on, likeliest first, of equal ones the first."""
    values, order = row.sort(descending=True, stable=True)
    weights = (values - values[0]).exp()
    cumulative = weights.cumsum(-1)
    place = int(torch.searchsorted(cumulative, chance * cumulative[-1:], right=True))
    return int(order[min(place, int((weights > 0).sum()) - 1)])
