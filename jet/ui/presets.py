"""Presets: sampling parameters under plain names."""

from __future__ import annotations

from jet.api import SamplingParams

# In a writer's words; "neutral" is for comparisons, and shown among the numbers.
DESCRIPTIONS = {
    "steady": "Keeps to what is likely: calm, rarely surprising.",
    "balanced": "A good start for most stories.",
    "wild": "Takes unlikely turns, some of them odd.",
    "neutral": "The model as it is, with nothing cut off: for comparisons.",
}

# "neutral" draws from the network's own distribution: nothing is cut off, sharpened or punished.
PRESETS: dict[str, SamplingParams] = {
    "steady": SamplingParams(temperature=0.6, top_p=0.9, min_p=0.1, repetition_penalty=1.05),
    "balanced": SamplingParams(),
    "wild": SamplingParams(temperature=1.2, top_p=1.0, min_p=0.05, repetition_penalty=1.1),
    "neutral": SamplingParams(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0),
}
