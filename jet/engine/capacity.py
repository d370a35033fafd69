"""How many stories fit a device at once, from its free memory: plain arithmetic, no torch."""

from __future__ import annotations

from dataclasses import dataclass

from jet.roofline import Footprint

# Of the free memory; prompts need some to be read with, and so may others.
SHARE = 0.7
KEPT_SHARE = 0.2  # of that, for states that are kept for later
KEPT_PER_WRITER = 4  # at most
_SHORT_STORY = 4096  # tokens that every writer should have memory for


class CapacityError(ValueError):
    """More was asked for than there is memory for. Says how much there is."""


@dataclass(frozen=True)
class Capacity:
    """What memory is set aside for.

    Attributes:
        writers: stories that are written at once.
        kept: states kept besides, for going on, trying again and branching.
        tokens: whose keys and values in full attention fit, of all stories together.
        context: most tokens of one story, prompt included.
    """

    writers: int
    kept: int
    tokens: int
    context: int


def plan_capacity(
    footprint: Footprint, free: int, context: int, most_writers: int, writers: int | None = None
) -> Capacity:
    """Share out `free` bytes. Raises CapacityError if `writers`, where they are given, do not fit.

    Up to `most_writers`, a power of two of them, as long as half of the memory holds a short story of each.
    """
    usable = int(free * SHARE)
    state = footprint.recurrent + footprint.conv + (footprint.window + 1) * footprint.window_token
    short = state + min(context, _SHORT_STORY) * footprint.full_token
    fit = max(1, usable // (2 * short))
    if writers is not None and writers > max(fit, usable // short):
        raise CapacityError(
            f"There is memory for {max(fit, usable // short)} stories at once, and {writers} were asked for: "
            "ask for fewer, or for a shorter context."
        )
    writers = writers or min(most_writers, 1 << (fit.bit_length() - 1))
    kept = min(KEPT_PER_WRITER * most_writers, max(1, int(usable * KEPT_SHARE) // max(1, state)))
    # What is kept has keys and values, too: where those have no room on the device, they go to the host.
    tokens = (writers + kept) * context
    if footprint.full_token:
        left = (
            usable - (writers + kept + 1) * state
        )  # one is put aside while the end of a prompt is drawn again
        tokens = min(tokens, max(left // footprint.full_token, _SHORT_STORY))
    return Capacity(writers, kept, tokens, min(context, tokens))
