"""Keeps Python's garbage collector away from libraries: each time, they would take it a second."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def only_own_garbage() -> Iterator[None]:
    """Leave libraries out of the collections that a switch makes: they would take most of the time."""
    gc.freeze()
    yield
    gc.unfreeze()
