"""Test that damaged files are read, or refused in a sentence that a writer understands."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from jet.files.reading import read, read_all
from jet.files.writing import FORMATS, write, write_all
from jet.story.errors import StoryFileError
from tests.files.bounds import Bounded
from tests.files.samples import story

REAL = Path(__file__).parent / "real"
ODD = (b"\0", b"\xff\xff\xff\xff", b"[" * 3_000, b"{", b'"', b"<", b"\\u")


@cache
def sound() -> list[tuple[str, bytes]]:
    """Return names and contents of files that can be read."""
    ours = [(f"ours.{ending}", write(story(), ending).data) for ending in FORMATS]
    others = ("expected.json", "README.md")
    real = [(path.name, path.read_bytes()) for path in sorted(REAL.iterdir()) if path.name not in others]
    return [*ours, ("all.zip", write_all([story(), story()]).data), *real]


def damaged(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of `count` files, each with up to thirty damages.

    A damage is a flipped bit, or bytes that are removed, repeated, moved to the end, or inserted from
    elsewhere.
    """
    source = random.Random(seed)
    files = sound()
    for number in range(count):
        name, data = files[number % len(files)]
        made = bytearray(data)
        for _ in range(source.choice((1, 1, 2, 5, 30))):
            at = source.randrange(len(made) + 1)
            length = source.choice((1, 2, 4, 16, 200))
            piece = made[at : at + length]
            other = source.choice(files)[1]
            match source.randrange(8):
                case 0 if made:
                    made[at % len(made)] ^= 1 << source.randrange(8)
                case 1:
                    del made[at:]
                case 2:
                    del made[at : at + length]
                case 3:
                    made[at:at] = piece * source.choice((2, 50, 3_000))
                case 4:
                    made[at : at + length] = source.randbytes(length)
                case 5:
                    start = source.randrange(len(other))
                    made[at:at] = other[start : start + length]
                case 6:
                    made[at:at] = source.choice(ODD)
                case _:
                    made.reverse() if source.random() < 0.02 else made.extend(piece)
        yield name, bytes(made[:3_000_000])


def check(count: int, seed: int) -> None:
    """Read `count` damaged files within the bounds; check the messages for those that are refused."""
    outcomes = {"read": 0, "refused": 0}
    bounded = Bounded()
    for name, data in damaged(count, seed):
        about = f"{name} {data[:200]!r}"
        try:
            found = bounded(lambda name=name, data=data: read(name, data), about)
            bounded(lambda found=found: write(found.document, "json"), about)
            outcomes["read"] += 1
        except StoryFileError as error:
            message = str(error)
            assert message[0].isupper() or message[0] == "'", message
            assert message.rstrip()[-1] in ".!”", message
            assert len(message) < 400
            outcomes["refused"] += 1
        bounded(lambda name=name, data=data: read_all(name, data), about)
    print(
        f"{count:,} damaged files, {outcomes}: at most {bounded.seconds:.2f} s, {bounded.bytes / 1e6:.0f} MB"
    )
    assert min(outcomes.values()) > count // 20, outcomes


def test_damaged_files_are_read_or_refused_in_words() -> None:
    check(150, seed=1)


@pytest.mark.thorough
def test_two_thousand_damaged_files_take_neither_time_nor_memory() -> None:
    check(2_000, seed=2)
