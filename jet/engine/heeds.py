"""Keep what was measured of a checkpoint: how far its stories heed what memory, note and lore tell.

A record belongs to the contents of a checkpoint, not to its name or place: a changed model has none. It is
kept beside the weights (as of the model that comes with the project) or in the user's cache folder.
`python -m jet.evaluate world` makes it, and the page shows it.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jet.cache_dirs import cache_root
from jet.modeling import CheckpointError
from jet.modeling.checkpoint import weight_files

VERSION = 1
BESIDE = "heeds.json"  # a record's name in the folder of its checkpoint
FIELDS = ("memory", "note", "lore", "about")

_SAMPLES, _SAMPLE = 64, 2**16  # pieces of a large file that are hashed, and their bytes
_WITHOUT_MEANING = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")


@dataclass(frozen=True)
class Rate:
    """How often stories show what was told.

    Attributes:
        told: share of the stories that were told it.
        untold: share of the same stories that were not.
    """

    told: float
    untold: float


@dataclass(frozen=True)
class Heed:
    """How far a model heeds one field.

    Attributes:
        rate: over all that was told there.
        low, high: spread of `rate.told - rate.untold`, 90 % of resampled sets of what was told.
        stories: that were told something.
        kinds: the rate of each kind, where there are several: names and things, weather and mood.
    """

    rate: Rate
    low: float
    high: float
    stories: int
    kinds: dict[str, Rate] = field(default_factory=dict)


@dataclass(frozen=True)
class Heeds:
    """The record of a checkpoint: a `Heed` for each field that was measured."""

    checkpoint: str
    fields: dict[str, Heed]


def identify(folder: Path, quantize: str | None = None) -> str | None:
    """Return the identity of a checkpoint by its contents; None if its files cannot be read.

    Names and times of files do not matter. Of large files the length and 64 samples are hashed, 4 MiB in all:
    training changes nearly every weight. `quantize` is the scheme that loading applies.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        plain = {name: value for name, value in config.items() if name not in _WITHOUT_MEANING}
        digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
        tokenizer = folder / "tokenizer.json"
        for file in [*weight_files(folder), *([tokenizer] if tokenizer.is_file() else [])]:
            _add(digest, file)
    except (CheckpointError, OSError, ValueError, AttributeError):
        return None
    return digest.hexdigest()[:32] + (f"+{quantize}" if quantize else "")


def _add(digest: Any, file: Path) -> None:
    size = file.stat().st_size
    digest.update(f"{size}".encode())
    with file.open("rb") as opened:
        if size <= _SAMPLES * _SAMPLE:
            digest.update(opened.read())
            return
        for number in range(_SAMPLES):
            opened.seek((size - _SAMPLE) * number // (_SAMPLES - 1))
            digest.update(opened.read(_SAMPLE))


def cached_path(checkpoint: str) -> Path:
    """Return where the record of a checkpoint is kept if not beside it."""
    return cache_root() / "heeds" / f"{checkpoint}.json"


def find(checkpoint: str | None, folder: Path | None = None) -> Heeds | None:
    """Return the record of a checkpoint: the user's own, or the one in its folder; None if there is none."""
    if checkpoint is None:
        return None
    places = [cached_path(checkpoint), *([] if folder is None else [folder / BESIDE])]
    records = (_read(place) for place in places)
    return next((found for found in records if found is not None and found.checkpoint == checkpoint), None)


def _read(path: Path) -> Heeds | None:
    """Read a record; None if there is none, or none that can be read here."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        if plain["version"] != VERSION:
            return None
        return Heeds(plain["checkpoint"], {name: _to_heed(one) for name, one in plain["fields"].items()})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _to_heed(plain: dict[str, Any]) -> Heed:
    kinds = {name: Rate(**rate) for name, rate in plain["kinds"].items()}
    return Heed(Rate(**plain["rate"]), plain["low"], plain["high"], plain["stories"], kinds)


def write(heeds: Heeds, path: Path, **remarks: object) -> None:
    """Write a record, whole or not at all. `remarks` are for readers of the file. Raises OSError."""
    plain = {"version": VERSION, **asdict(heeds), **remarks}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)
