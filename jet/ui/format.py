"""Format numbers and states for the page, as plain text."""

from __future__ import annotations

from pathlib import PurePath

from jet.api import RequestStats

UNKNOWN = "–"
STORY_MODEL = "story-model"  # folder of the model that comes with this project
_FINISHED = {
    "stop": "The story has ended",
    "stop_string": "Stop string found",
    "length": "Done",
    "banned": "Stopped before what you never want",
    "context": "Context full",
    "aborted": "Stopped",
    "deadline": "Time limit reached",
    "error": "That did not work",
    "model_changed": "The model was changed",
}
_EMPTY = {
    "stop": "The model has ended this story. Continue anyway?",
    "stop_string": "Nothing was written: a stop string came first.",
    "length": "Nothing that can be shown was written: please continue.",
    "context": "Nothing was written: the model’s context is full.",
    "aborted": "Stopped before the first word.",
    "deadline": "Nothing was written in the time for one request: please try again.",
    "model_changed": "Nothing was written before the model was changed: please continue.",
}


def branch_name(name: str, number: int) -> str:
    """Return the name of a branch: the writer's name for it, or else its number in order of creation."""
    return name or f"Version {number}"


def model_name(model: str) -> str:
    """Return the model's name to show: a hub id unchanged, or the last part of a folder's path."""
    path = PurePath(model.replace("\\", "/"))
    if path.name == STORY_MODEL:
        return "Story model (small, runs on this computer)"
    is_hub_id = len(path.parts) <= 2 and not path.is_absolute() and not model.startswith((".", "~"))
    return model if is_hub_id else path.name


def describe_empty_result(stats: RequestStats) -> str:
    """Say why a request has ended without text."""
    return _EMPTY.get(stats.finish_reason or "", f"Nothing was written: {stats.finish_reason}.")


def size(size: int | None) -> str:
    """Format bytes, such as "27.0 MiB". None gives a dash."""
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
    """Format seconds: "83 ms", "1.42 s", "37 s". None gives a dash."""
    if value is None:
        return UNKNOWN
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 9.995 else f"{value:.0f} s"


def rate(value: float | None) -> str:
    """Format tokens per second: "63.2", "540". None gives a dash."""
    if value is None:
        return UNKNOWN
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def count(value: int | None) -> str:
    """Format a count with thousands separators: "1,024". None gives a dash."""
    return UNKNOWN if value is None else f"{value:,}"


def prefilled(all_tokens: int, cached: int) -> str:
    """Format the number of prefilled prompt tokens: "512", or "32 of 512" if the other 480 were cached."""
    return f"{count(all_tokens - cached)} of {count(all_tokens)}" if cached else count(all_tokens)


def running(active: int | None, queued: int | None) -> str:
    """Format the numbers of running and waiting requests: "3", or "3, 2 waiting"."""
    if active is None:
        return UNKNOWN
    return f"{active}, {queued} waiting" if queued else str(active)


def status(stats: RequestStats) -> str:
    """Say what a request is doing, or how it ended."""
    if stats.finish_reason is not None:
        return _FINISHED.get(stats.finish_reason, stats.finish_reason)
    if stats.phase == "queued":
        position = stats.queue_position
        return f"Queued: {position} ahead" if position else "Waiting for the model"
    return "Reading the story so far" if stats.phase == "prefill" else "Writing"
