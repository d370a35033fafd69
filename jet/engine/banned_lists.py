"""Load the ready lists of banned phrases from `banned_lists.json`, and collect a request's banned phrases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jet.api import RequestError, check_banned
from jet.engine.text.banned_phrases import BannedPhraseError, PhraseMatcher


@dataclass(frozen=True)
class BannedList:
    """A ready list of phrases, with a sentence for writers about its purpose."""

    says: str
    phrases: tuple[str, ...]


@cache
def ready_lists() -> dict[str, BannedList]:
    """Return the ready lists by name."""
    plain = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return {name: BannedList(one["says"], tuple(one["phrases"])) for name, one in plain.items()}


def banned_phrases(banned: object, lists: object = ()) -> tuple[str, ...]:
    """Return all phrases that a request bans: its own phrases and those of the ready lists that it names.

    Args:
        banned: one phrase or a list of them; None for none. Blank phrases are dropped.
        lists: one name of a ready list or a list of names; None for none.

    Raises:
        RequestError: if a phrase cannot be banned or a list does not exist; the message says which.
    """
    own = [phrase for phrase in _texts(banned, "banned") if phrase.strip(" ")]
    found = dict.fromkeys(own)
    known = ready_lists()
    for name in _texts(lists, "banned_lists"):
        if name not in known:
            raise RequestError(f"There is no list {name[:40]!r}: the lists are {', '.join(known)}.")
        found.update(dict.fromkeys(known[name].phrases))
    phrases = tuple(found)
    check_banned(phrases)
    try:
        PhraseMatcher(own)
    except BannedPhraseError as error:
        raise RequestError(str(error)) from None
    return phrases


def _texts(value: object, name: str) -> Sequence[str]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
        raise RequestError(f"{name} must be a list of texts.")
    return value
