"""Capacity: how many requests and tokens fit in a device's free memory. Plain arithmetic, no torch."""

from __future__ import annotations

from dataclasses import dataclass

from jet.roofline import Footprint

SHARE = 0.7  # of free memory; prefill and other programs need the rest
CACHE_SHARE = 0.2  # of that, for snapshots
CACHE_SLOTS_PER_REQUEST = 4  # at most
MIN_CACHE_SLOTS = 6  # however small the limit of a cache is
_SHORT_STORY = 4096  # tokens that every running request should have memory for


class CapacityError(ValueError):
    """The given number of running requests does not fit in memory; the message says how many do."""


@dataclass(frozen=True)
class Capacity:
    """The sizes to allocate memory for.

    Attributes:
        max_running_requests: requests that run at once.
        cache_slots: snapshots kept for continuing, retrying and branching.
        max_total_tokens: most tokens of all requests and snapshots together, as their keys and values fit.
        context: most tokens of a request, prompt included.
    """

    max_running_requests: int
    cache_slots: int
    max_total_tokens: int
    context: int


def plan_capacity(
    footprint: Footprint,
    free: int,
    context: int,
    max_batch: int,
    max_running_requests: int | None = None,
    cache_limit: int | None = None,
) -> Capacity:
    """Divide `free` bytes among running requests, snapshots and tokens.

    Args:
        footprint: the bytes of a request's states, keys and values.
        free: the free bytes of the device.
        context: most tokens of a request, prompt included.
        max_batch: most requests that run at once by default.
        max_running_requests: the number of requests that run at once. None for the largest power of two up
            to `max_batch` with which short texts of all of them fit into half of the usable memory.
        cache_limit: about the most bytes of snapshots; None for no limit of its own.

    Raises:
        CapacityError: the given `max_running_requests` do not fit.
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
    if cache_limit is not None:
        kept = min(kept, max(MIN_CACHE_SLOTS, cache_limit // max(1, state)))
    # Snapshots have keys and values, too; those without room on the device move to the host.
    tokens = (max_running_requests + kept) * context
    if footprint.full_token:
        left = usable - (max_running_requests + kept + 1) * state  # one is the scratch slot of healing
        tokens = min(tokens, max(left // footprint.full_token, _SHORT_STORY))
    return Capacity(max_running_requests, kept, tokens, min(context, tokens))
