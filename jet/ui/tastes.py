"""Sliders that each set several sampler settings at once, described in a writer's words."""

from __future__ import annotations

from jet.api import SamplingParams

_DEFAULTS = SamplingParams()
LEVELS = ("off", "a little", "clearly", "strongly")


def _repeats(multiplier: float) -> dict[str, float]:
    base, allowed = _DEFAULTS.dry_base, _DEFAULTS.dry_allowed_length
    return {"dry_multiplier": multiplier, "dry_base": base, "dry_allowed_length": allowed}


def _cliches(probability: float, threshold: float = _DEFAULTS.xtc_threshold) -> dict[str, float]:
    return {"xtc_probability": probability, "xtc_threshold": threshold}


# By id: what is said of a slider, and what it sets at each of `LEVELS`; the first name of each is 0 when off.
TASTES = {
    "repeats": (
        "Avoid repeats",
        "Phrases that the story already has become unlikely.",
        (_repeats(0.0), _repeats(0.4), _repeats(0.8), _repeats(2.0)),
    ),
    "cliches": (
        "Avoid clichés",
        "The likeliest words are left out now and then.",
        (_cliches(0.0), _cliches(0.25), _cliches(0.5), _cliches(0.8, 0.05)),
    ),
}
