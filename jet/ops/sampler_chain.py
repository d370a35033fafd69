"""Samplers beyond those of `jet.ops.sampling`, and samplers in an order that the user chooses.

Each sampler takes and returns a row, float64 logits `[V]`, with -inf for removed tokens. At least the
likeliest token stays. `docs/samplers.md` defines all samplers with their sources; the default order is
`ORDER`.
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
    """Settings of the samplers of a chain, off by default; units as in `jet.api.SamplingParams`."""

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
    """Apply the samplers of a chain to a row, in the order of `settings.order`; return the filtered row.

    `special`: bool `[V]`, the tokens that XTC must not exclude. Raises FloatingPointError if the largest
    logit is not finite.
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
    """Divide a row by the temperature, which grows with the entropy if dynamic temperature is on."""
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
    """Typical sampling: keep the tokens whose surprise is nearest to the entropy, up to a total of `mass`.

    Surprise is -log p. Tokens at the same distance from the entropy are kept or removed together.
    """
    if mass >= 1:
        return row
    logprobs = row.log_softmax(-1)
    distance = (-logprobs - entropy(row)).abs()
    nearest, order = distance.sort()
    last = int((logprobs[order].exp().cumsum(-1) < mass).sum())
    return row.masked_fill(distance > nearest[min(last, len(row) - 1)], -math.inf)


def top_k(row: Tensor, count: int) -> Tensor:
    """Keep the `count` likeliest tokens and all tokens as likely as the last of them; 0 keeps all."""
    if not 0 < count < len(row):
        return row
    return row.masked_fill(row < row.topk(count).values[-1], -math.inf)


def top_p(row: Tensor, mass: float) -> Tensor:
    """Keep each token if the likelier ones together have a probability below `mass`.

    Equally likely tokens are taken in the order of their ids.
    """
    if mass >= 1:
        return row
    values, order = row.sort(descending=True, stable=True)
    probabilities = values.softmax(-1)
    removed = probabilities.cumsum(-1) - probabilities >= mass
    removed[0] = False
    return row.masked_fill(torch.zeros_like(removed).scatter(0, order, removed), -math.inf)


def min_p(row: Tensor, fraction: float) -> Tensor:
    """Keep the tokens that are at least `fraction` times as likely as the likeliest."""
    return row.masked_fill(row - row.max() < math.log(fraction), -math.inf) if fraction > 0 else row


def xtc(row: Tensor, threshold: float | None, special: Tensor | None) -> Tensor:
    """XTC: exclude top choices unless `threshold` is None; see `jet.ops.sampling.exclude_top_choices`."""
    if threshold is None:
        return row
    values, order = row.sort(descending=True, stable=True)
    weights = (values - values[0]).exp()
    kept = exclude_top_choices(weights[None], threshold, None if special is None else special[order][None])[0]
    removed = torch.zeros_like(row, dtype=torch.bool).scatter(0, order, kept == 0)
    return row.masked_fill(removed, -math.inf)


def mirostat(row: Tensor, mu: float) -> Tensor:
    """Mirostat: keep the tokens whose surprise, -log2 p, is at most `mu` bits; at least the likeliest."""
    surprise = -row.log_softmax(-1) / math.log(2)
    removed = (surprise > mu) & (row < row.max())
    if bool(surprise.min() > mu):
        removed[:] = True
        removed[row.argmax()] = False
    return row.masked_fill(removed, -math.inf)


def next_mu(mu: float, kept: Tensor, token: int, tau: float, eta: float) -> float:
    """Return mirostat's next `mu` after `token` was drawn from the row `kept`.

    `mu` changes by `eta` times the difference between the token's surprise and the target `tau`, in bits.
    """
    return mu - eta * (-float(kept.log_softmax(-1)[token]) / math.log(2) - tau)


@dataclass(frozen=True)
class AdaptiveState:
    """Adaptive-p's moving average of the probabilities of drawn tokens.

    The average is `weighted_sum / total_weight`. Each further token multiplies earlier weights by `decay`.
    """

    weighted_sum: float
    total_weight: float

    @classmethod
    def start(cls, target: float, decay: float) -> AdaptiveState:
        """Return the initial state, as if all earlier tokens had had the target probability."""
        return cls(target / (1 - decay), 1 / (1 - decay))

    def after(self, probability: float, decay: float) -> AdaptiveState:
        """Return the state after drawing a token that had this probability before `adapt`."""
        return AdaptiveState(probability + decay * self.weighted_sum, 1 + decay * self.total_weight)


def adapt(row: Tensor, target: float, state: AdaptiveState) -> Tensor:
    """Adaptive-p: prefer tokens whose probability is near a target, adjusted by the moving average."""
    aim = min(1.0, max(0.0, 2 * target - state.weighted_sum / state.total_weight))
    distance = (row.softmax(-1) - aim).abs() / ADAPTIVE_WIDTH
    logits = ADAPTIVE_PEAK - ADAPTIVE_SHARPNESS * distance**2 / (1 + distance)
    return logits.masked_fill(row == -math.inf, -math.inf)


def draw_from(row: Tensor, chance: float) -> int:
    """Draw a token from a row by a uniform number `chance` in [0, 1); return its id.

    Chances near 0 draw the likeliest token, since tokens are ordered by probability.
    """
    values, order = row.sort(descending=True, stable=True)
    weights = (values - values[0]).exp()
    cumulative = weights.cumsum(-1)
    place = int(torch.searchsorted(cumulative, chance * cumulative[-1:], right=True))
    return int(order[min(place, int((weights > 0).sum()) - 1)])
