"""How many stories fit a device at once, from its free memory: plain arithmetic, no torch."""

from __future__ import annotations

from dataclasses import dataclass

from jet.roofline import Footprint

# Of the free memory; prompts need some to be read with, and so may others.
SHARE = 0.7
CACHE_SHARE = 0.2  # of that, for states that are kept for later
CACHE_SLOTS_PER_REQUEST = 4  # at most
_SHORT_STORY = 4096  # tokens that every writer should have memory for


class CapacityError(ValueError):
    """More was asked for than there is memory for. Says how much there is."""


@dataclass(frozen=True)
class Capacity:
    """What memory is set aside for.

    Attributes:
        max_running_requests: stories that are written at once.
        cache_slots: states kept besides, for going on, trying again and branching.
        max_total_tokens: whose keys and values in full attention fit, of all stories together.
        context: most tokens of one story, prompt included.
    """

    max_running_requests: int
    cache_slots: int
    max_total_tokens: int
    context: int


def plan_capacity(
    footprint: Footprint, free: int, context: int, max_batch: int, max_running_requests: int | None = None
) -> Capacity:
    """Share out `free` bytes.

    Raises CapacityError if `max_running_requests`, where they are given, do not fit.

    Up to `max_batch`, a power of two of them, as long as half of the memory holds a short story of each.
    """
    usable = int(free * SHARE)
    state = footprint.recurrent + footprint.conv + (footprint.window + 1) * footprint.window_token
    short = state + min(context, _SHORT_STORY) * footprint.full_token
    fit = max(1, usable // (2 * short))
    if max_running_requests is not None and max_running_requests > max(fit, usable // short):
        raise CapacityError(
            f"There is memory for {max(fit, usable // short)} stories at once, and {max_running_requests} "
            "were asked for: ask for fewer, or for a shorter context."
        )
    max_running_requests = max_running_requests or min(max_batch, 1 << (fit.bit_length() - 1))
    kept = min(CACHE_SLOTS_PER_REQUEST * max_batch, max(1, int(usable * CACHE_SHARE) // max(1, state)))
    # What is kept has keys and values, too: where those have no room on the device, they go to the host.
    tokens = (max_running_requests + kept) * context
    if footprint.full_token:
        left = (
            usable - (max_running_requests + kept + 1) * state
        )  # one is put aside while the end of a prompt is drawn again
        tokens = min(tokens, max(left // footprint.full_token, _SHORT_STORY))
    return Capacity(max_running_requests, kept, tokens, min(context, tokens))
