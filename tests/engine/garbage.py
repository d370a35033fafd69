"""Keep Python's garbage collector away from libraries, which would take it a second each time."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def only_own_garbage() -> Iterator[None]:
    """Exclude libraries from the collections that a switch makes, as they would take most of the time."""
    gc.freeze()
    yield
    gc.unfreeze()
