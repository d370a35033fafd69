"""Records of how often a checkpoint's stories use facts from memory, author's note, lore and subject.

A record belongs to the contents of a checkpoint, not to its name or folder, so a changed model has none. The
record is in the folder of the weights, as for the model that comes with the project, or in the user's cache
folder. `python -m jet.evaluate world` measures and writes it, and the page shows it.
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
    """How often stories show a fact, as fractions from 0 to 1.

    Attributes:
        told: the fraction among stories that were given the fact.
        untold: the fraction among stories that were not given it.
    """

    told: float
    untold: float


@dataclass(frozen=True)
class Heed:
    """How often a model uses the facts of one field, such as memory.

    Attributes:
        rate: the rate over all facts of the field.
        low, high: bounds of the 90 % bootstrap interval of `rate.told - rate.untold`.
        stories: the number of stories that were given a fact.
        kinds: the rate of each kind of fact, such as names; empty if the field has one kind only.
    """

    rate: Rate
    low: float
    high: float
    stories: int
    kinds: dict[str, Rate] = field(default_factory=dict)


@dataclass(frozen=True)
class Heeds:
    """The record of the checkpoint with the identity `checkpoint`: a `Heed` for each measured field."""

    checkpoint: str
    fields: dict[str, Heed]


def identify(folder: Path, quantize: str | None = None) -> str | None:
    """Return the identity of a checkpoint by its contents; None if its files cannot be read.

    Names and times of files do not matter. For a large file, its length and 64 samples (4 MiB in all) are
    hashed, since training changes nearly every weight. `quantize` is the scheme that loading applies.
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
    """Return the path of a checkpoint's record in the user's cache folder."""
    return cache_root() / "heeds" / f"{checkpoint}.json"


def find(checkpoint: str | None, folder: Path | None = None) -> Heeds | None:
    """Return the record of the checkpoint with the identity `checkpoint`; None if there is none.

    A record in the user's cache folder takes precedence over one in the checkpoint's `folder`.
    """
    if checkpoint is None:
        return None
    places = [cached_path(checkpoint), *([] if folder is None else [folder / BESIDE])]
    records = (_read(place) for place in places)
    return next((found for found in records if found is not None and found.checkpoint == checkpoint), None)


def _read(path: Path) -> Heeds | None:
    """Return the record in a file; None if the file is missing, unreadable or of another version."""
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
    """Write a record atomically. `remarks` are further fields for readers of the file. Raises OSError."""
    plain = {"version": VERSION, **asdict(heeds), **remarks}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)
