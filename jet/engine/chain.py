"""Chain: draws one request's tokens through the samplers of `jet.ops.sampler_chain`, with their states.

Mirostat and adaptive-p have a state that depends on the tokens drawn so far. A request keeps the state from
before each step, so that it can continue at any earlier step after a rollback or a recomputation.
"""

from __future__ import annotations

import math

from torch import Tensor

from jet.api import SamplingParams
from jet.ops.sampler_chain import (
    ORDER,
    AdaptiveState,
    ChainSettings,
    adapt,
    draw_from,
    filter_row,
    heat,
    mirostat,
    next_mu,
)

State = float | AdaptiveState | None
SamplerStates = dict[int, State]  # the state before the token of a step; of the first, it is left out


def initial_state(sampling: SamplingParams) -> State:
    """Return the state before the first token; None if no sampler with a state is in use."""
    if sampling.mirostat:
        return 2.0 * sampling.mirostat_tau
    if sampling.adaptive_target >= 0:
        return AdaptiveState.start(sampling.adaptive_target, sampling.adaptive_decay)
    return None


def state_at(sampling: SamplingParams, states: SamplerStates, step: int) -> State:
    """Return the state before the token of a step."""
    state = states.get(step)
    return initial_state(sampling) if state is None else state


def as_numbers(state: State) -> tuple[float, float]:
    """Return a state as a row of `DecodeBatch.sampler_state`."""
    if isinstance(state, AdaptiveState):
        return state.weighted_sum, state.total_weight
    return (0.0 if state is None else state), 0.0


def from_numbers(sampling: SamplingParams, first: float, second: float) -> State:
    """Return the state of a row of `DecodeBatch.sampler_state`."""
    return first if sampling.mirostat else AdaptiveState(first, second)


class Chain:
    """The samplers of one request."""

    def __init__(
        self, sampling: SamplingParams, special: Tensor, states: SamplerStates | None = None
    ) -> None:
        """`special`: bool `[V]`, the tokens that XTC never excludes.

        `states`: the samplers' state before each step, by step; `draw` adds to them. None for no states yet.
        """
        self._sampling, self._special = sampling, special
        self._states: SamplerStates = {} if states is None else states

    def draw(self, row: Tensor, chance: float, step: int, excludes: bool) -> int:
        """Draw token number `step` from float64 logits `[V]`, by the uniform random number `chance`.

        `excludes`: whether XTC excludes the top choices in this step.

        Raises FloatingPointError if the largest logit is not finite.
        """
        sampling = self._sampling
        order = tuple(sampling.sampler_order.split(";")) if sampling.sampler_order else ORDER
        settings = ChainSettings(
            sampling.temperature,
            sampling.dynatemp_range,
            sampling.dynatemp_exponent,
            sampling.top_n_sigma,
            sampling.typical_p,
            sampling.top_k,
            sampling.top_p,
            sampling.min_p,
            sampling.xtc_threshold if excludes else None,
            order,
        )
        if sampling.mirostat:
            row = filter_row(row, ChainSettings(order=()))  # only checks it
            return self._draw_mirostat(heat(row, settings), chance, step)
        row = filter_row(row, settings, self._special)
        return draw_from(row, chance) if sampling.adaptive_target < 0 else self._adapt(row, chance, step)

    def _draw_mirostat(self, row: Tensor, chance: float, step: int) -> int:
        sampling, mu = self._sampling, state_at(self._sampling, self._states, step)
        assert isinstance(mu, float)
        kept = mirostat(row, mu)
        token = draw_from(kept, chance)
        self._states[step + 1] = next_mu(mu, kept, token, sampling.mirostat_tau, sampling.mirostat_eta)
        return token

    def _adapt(self, row: Tensor, chance: float, step: int) -> int:
        sampling, state = self._sampling, state_at(self._sampling, self._states, step)
        assert isinstance(state, AdaptiveState)
        token = draw_from(adapt(row, sampling.adaptive_target, state), chance)
        probability = math.exp(float(row.log_softmax(-1)[token]))
        self._states[step + 1] = state.after(probability, sampling.adaptive_decay)
        return token
