"""Lists of words and sentences for composing texts, one a line in files beside this one."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def read_list(name: str) -> tuple[str, ...]:
    """Return the lines of `NAME.txt`."""
    return tuple(Path(__file__).with_name(f"{name}.txt").read_text(encoding="utf-8").splitlines())
