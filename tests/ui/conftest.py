"""Make the page, and a stand-in for the engine, available to the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ui.served import page_server, served
from tests.ui.stand_in import StandInSource

__all__ = ["page_server", "served"]


@pytest.fixture
def source() -> Iterator[StandInSource]:
    source = StandInSource()
    source.stand_in.tokens_per_second = 2000
    yield source
    source.load()
    source.stand_in.close()
