"""Numbers and states in words, as the page says them. Plain text: whoever builds HTML escapes it."""

from __future__ import annotations

from jet.api import RequestStats
from jet.story.tree import Branch, BranchView

UNKNOWN = "–"
_FINISHED = {
    "stop": "The end: the model closed the story",
    "stop_string": "Done: the text to stop at has come",
    "length": "Done: all the new tokens are written",
    "context": "The model’s context is full",
    "aborted": "Stopped",
    "deadline": "Done: the time for one request is over",
    "error": "That did not work",
}
_EMPTY = {
    "stop": "The model has closed this story. Continue beyond it?",
    "stop_string": "Nothing was written: the text to stop at has come at once.",
    "length": "Nothing that can be shown was written: please continue.",
    "context": "Nothing was written: the model’s context is full.",
    "aborted": "Stopped before the first word.",
    "deadline": "Nothing was written in the time for one request: please try again.",
}


def branch_name(branch: Branch | BranchView) -> str:
    """What a branch is called: by its own name, or else by its number."""
    return branch.name or ("The first" if branch.parent is None else f"Branch {branch.id}")


def describe_empty_result(stats: RequestStats) -> str:
    """Why a request has ended without a single character."""
    return _EMPTY.get(stats.finish_reason or "", f"Nothing was written: {stats.finish_reason}.")


def size(size: int | None) -> str:
    """Bytes for people: 27.0 MiB."""
    if size is None:
        return UNKNOWN
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 999.95 or unit == "GiB":
            break
    return f"{value:.1f} {unit}"


def duration(value: float | None) -> str:
    """A duration: 83 ms, 1.42 s, 37 s."""
    if value is None:
        return UNKNOWN
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 9.995 else f"{value:.0f} s"


def rate(value: float | None) -> str:
    """Tokens a second: 63.2, 540."""
    if value is None:
        return UNKNOWN
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def count(value: int | None) -> str:
    """A count with thousands set apart: 1,024."""
    return UNKNOWN if value is None else f"{value:,}"


def prefilled(all_tokens: int, cached: int) -> str:
    """How much of the prompt had to be read: 512; or 32 of 512, where the rest was still in memory."""
    return f"{count(all_tokens - cached)} of {count(all_tokens)}" if cached else count(all_tokens)


def running(active: int | None, queued: int | None) -> str:
    """How many are being written, and how many wait: 3, and 2 in line."""
    if active is None:
        return UNKNOWN
    return f"{active}, and {queued} in line" if queued else str(active)


def status(stats: RequestStats) -> str:
    """What a request is doing, or how it ended."""
    if stats.finish_reason is not None:
        return _FINISHED.get(stats.finish_reason, stats.finish_reason)
    if stats.phase == "queued":
        position = stats.queue_position
        return f"Waiting in line: {position} ahead" if position else "Waiting for the model"
    return "Reading the story so far" if stats.phase == "prefill" else "Writing"
