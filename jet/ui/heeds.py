"""Remarks at the fields of World: how far the running model heeds each field, as it was measured."""

from __future__ import annotations

import shlex
from pathlib import Path

from jet.api import EngineInfo
from jet.engine.heeds import Heed, Heeds, Rate, find
from jet.engine.loading import resolve_path
from jet.ui.rendering import render

FIELDS = ("memory", "note", "lore")  # of World; the id of each one's place is jet-heeds-NAME
HARDLY, MOSTLY = 0.1, 0.5  # how much oftener than by chance a story shows what it was told

_TELLS = {
    "names": "Names told here come up in {}",
    "things": "other facts in {}",
    "weather": "Weather told here is felt in {}",
    "mood": "a mood in {}",
    "memory": "What is told here comes up in {}",
    "note": "What is told here is felt in {}",
    "lore": "What an entry tells comes up in {}",
}
_ELSEWHERE = "Whether the model heeds this is not known here: it runs on another server."
_UNKNOWN = "Whether this model heeds this has not been measured."


def marks(info: EngineInfo | None, own: bool) -> dict[str, str]:
    """Render the remark of each field, by the id of the element that shows it.

    `own`: whether the visitor runs the page and so can have the model measured. Returns an empty dictionary
    before a model is loaded.
    """
    if info is None:
        return {}
    folder = Path(resolve_path(info.model))
    heeds = find(info.checkpoint, folder if folder.is_dir() else None)
    return {f"jet-heeds-{name}": _mark(name, info, heeds, own) for name in FIELDS}


def _mark(name: str, info: EngineInfo, heeds: Heeds | None, own: bool) -> str:
    if heeds is not None and name in heeds.fields:
        return render("components.html", "heeds", text=describe(name, heeds.fields[name]), command="")
    if info.placement == "remote":
        return render("components.html", "heeds", text=_ELSEWHERE, command="")
    command = measuring_command(info) if own and info.checkpoint is not None else ""
    text = "Not measured for this model yet: run" if command else _UNKNOWN
    return render("components.html", "heeds", text=text, command=command)


def measuring_command(info: EngineInfo) -> str:
    """Return the command that measures the running model."""
    scheme = (info.checkpoint or "").partition("+")[2]
    options = f" --quantize {scheme}" if scheme else ""
    return f"python -m jet.evaluate world --model {shlex.quote(info.model)}{options}"


def describe(name: str, heed: Heed) -> str:
    """Say how far a model heeds a field: a verdict, and in how many of ten stories its content shows."""
    gain = heed.rate.told - heed.rate.untold
    if heed.low <= 0 or gain < HARDLY:
        verdict = "This model hardly heeds this."
    else:
        verdict = f"This model {'mostly' if gain >= MOSTLY else 'sometimes'} heeds this."
    rates = {kind: rate for kind, rate in heed.kinds.items() if kind in _TELLS} or {name: heed.rate}
    parts = [
        _TELLS[kind].format(_of_ten(rate, not number)) for number, (kind, rate) in enumerate(rates.items())
    ]
    return f"{verdict} {', '.join(parts)}."


def _of_ten(rate: Rate, first: bool) -> str:
    """Write a rate as a number of stories out of ten.

    Adds the number without the field, unless it is 0. `first`: whether to write the word "stories", too.
    """
    told, untold = round(10 * rate.told), round(10 * rate.untold)
    some = f"{told} of 10 stories" if first else f"{told} of 10"
    words = "hardly any story" if told == 0 else "nearly every story" if told == 10 else some
    return f"{words} (without it in {untold})" if untold else words
