"""Lists of words and sentences for composing texts, one a line in files beside this one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np


@cache
def read_list(name: str) -> tuple[str, ...]:
    """Return the lines of `NAME.txt`."""
    return tuple(Path(__file__).with_name(f"{name}.txt").read_text(encoding="utf-8").splitlines())


def draw(choices: Sequence[str], rng: np.random.Generator) -> str:
    """Return one of the choices, each as likely as the others."""
    return choices[int(rng.integers(len(choices)))]
