"""Sample the next token from logits: penalties, temperature, top-k, top-p, min-p and one random number.

Order and meaning of the settings are those of transformers' logits processors. The computation differs in two
ways:

- All three filters keep a prefix of the tokens sorted by probability. So a lower bound of the kept logits is
  found first, and only the tokens above it are sorted, mostly a few dozen.
- Random numbers are a function of (seed, step) only. The same request gives the same story in any batch, and
  there is no generator state to be stored or captured in a graph.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

NOT_A_NUMBER = "The network's output is not a number (NaN or infinite logits)."
XTC_STREAM = 1  # of random numbers, independent of the stream that draws tokens
_MASK = 0xFFFFFFFF


class Drawer(Protocol):
    """A compiled version of `penalize_repetition` and `sample` for one row."""

    def draw(
        self,
        logits: Tensor,
        seen: Tensor | None,
        chance: float,
        *,
        penalty: float,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
    ) -> int:
        """Return a token drawn from float32 logits `[V]` by a uniform number `chance` in [0, 1).

        `seen`: bool `[V]`, the tokens to penalize; None to penalize none.
        """
        ...


def uniform(seed: int, step: int, stream: int = 0) -> float:
    """Return the uniform number in [0, 1), of 53 random bits, for a `seed` (64 bits), `step` and `stream`.

    Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) with the seed as
    key and the step as counter, the generator that Triton and CUDA offer inside kernels.
    """
    high, low, _, _ = philox(
        (step & _MASK, step >> 32 & _MASK, stream, 0), (seed & _MASK, seed >> 32 & _MASK)
    )
    return ((high << 21) | (low >> 11)) * 2.0**-53


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the four random 32-bit words of Philox4x32-10 for a counter and a key of 32-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & _MASK, (a >> 32) ^ c3 ^ k1, a & _MASK
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Apply the repetition penalty to the logits `[B, V]` of the tokens in `seen`, a bool mask `[B, V]`.

    Their positive logits are divided by the penalty, and negative ones multiplied. A penalty above 1 makes
    the tokens less likely, one below 1 likelier.
    """
    choose = torch.minimum if penalty > 1 else torch.maximum
    return torch.where(seen, choose(logits * penalty, logits / penalty), logits)


def penalize_counts(logits: Tensor, counts: Tensor, presence: float, frequency: float) -> Tensor:
    """Subtract OpenAI's presence and frequency penalties from logits `[B, V]`.

    `counts`: float32 `[B, V]`, how often each token has occurred.
    """
    return logits - (counts * frequency + (counts > 0) * presence).to(logits)


def sample(
    logits: Tensor,
    uniforms: Tensor,
    *,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    xtc_threshold: float | None = None,
    xtc_special: Tensor | None = None,
) -> Tensor:
    """Sample the next token of every row; return ids `[B]`.

    Args:
        logits: `[B, V]`.
        uniforms: float64 `[B]`, a random number in [0, 1) for each row.
        temperature: 0 takes the likeliest token.
        top_k, top_p, min_p: filters, as in `jet.api.SamplingParams`.
        xtc_threshold: the threshold of `exclude_top_choices`; None to exclude no top choices.
        xtc_special: bool `[V]`, tokens that XTC must not exclude.

    Raises FloatingPointError if a row's largest logit is not finite: if any of its logits is NaN or +inf, or
    all are -inf.
    """
    peak = logits.amax(dim=-1, keepdim=True)
    if not all(map(math.isfinite, peak[:, 0].tolist())):
        raise FloatingPointError(NOT_A_NUMBER)
    if temperature == 0:
        return logits.argmax(dim=-1)
    ids, weights = candidates(logits - peak, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    if xtc_threshold is not None:
        special = None if xtc_special is None else xtc_special[ids]
        weights = exclude_top_choices(weights, xtc_threshold, special)
    cumulative = weights.cumsum(dim=-1)
    index = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)
    # Rounding can carry the target to the very end; what is chosen must still be a kept token.
    places = torch.arange(weights.shape[-1], device=weights.device)
    index = index.minimum(torch.where(weights > 0, places, 0).amax(dim=-1, keepdim=True))
    return ids.gather(-1, index).squeeze(-1)


def exclude_top_choices(weights: Tensor, threshold: float, special: Tensor | None = None) -> Tensor:
    """XTC: exclude all tokens with a probability of at least `threshold` except the least likely of them.

    Takes and returns unnormalized probabilities `[B, N]`, the largest of each row first; 0 for tokens that a
    filter has removed. If a row would lose a token in `special` (bool `[B, N]`), such as a line break, it
    loses none. Described by its author at https://github.com/oobabooga/text-generation-webui/pull/6335.
    """
    likely = (weights / weights.sum(dim=-1, keepdim=True) >= threshold) & (weights > 0)
    last = likely.sum(dim=-1, keepdim=True) - 1
    excluded = torch.arange(weights.shape[-1], device=weights.device) < last
    if special is not None:
        excluded = excluded & ~(excluded & special).any(dim=-1, keepdim=True)
    return weights.masked_fill(excluded, 0.0)


def candidates(
    logits: Tensor, *, temperature: float, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the tokens that the filters keep, likeliest first.

    Takes logits `[B, V]` whose largest in each row is 0. Returns ids `[B, N]` and float64 weights `[B, N]`,
    unnormalized probabilities of which the largest is 1. N is the largest number of kept tokens of a row;
    rows that keep fewer end in weights of 0. Equal logits at the edge of top-k are all kept, as in
    transformers.
    """
    vocabulary = logits.shape[-1]
    scaled = logits.float() / max(temperature, torch.finfo(torch.float32).tiny)
    within = scaled
    if 0 < top_k < vocabulary:
        edge = scaled.topk(top_k, dim=-1).values[:, -1:]
        within = scaled.masked_fill(scaled < edge, -math.inf)
    mass = within.exp().sum(dim=-1, keepdim=True)  # the likeliest token counts 1
    # V tokens, each below (1 - top_p) / V of the mass, are together less than top-p leaves out.
    floor = (mass * ((1 - top_p) / vocabulary)).log()
    if min_p > 0:
        floor = floor.clamp(min=math.log(min_p))
    if 0 < top_k < vocabulary:
        floor = floor.maximum(edge)
    kept = int((scaled >= floor).sum(dim=-1).max())
    top, ids = scaled.topk(kept, dim=-1)
    weights = top.masked_fill(top < floor, -math.inf).double().exp()
    if top_p < 1:
        likelier = weights.cumsum(dim=-1) - weights
        weights = weights.masked_fill(likelier / mass >= top_p, 0.0)
    return ids, weights
