"""Provide one engine and one server for each file of this folder that asks for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.openai.served_api import Api, Source, served_api, small_engine


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    """Yield the API of a private server over a small engine."""
    engine = small_engine()
    with served_api(Source(engine)) as api:
        yield api
    engine.close()


@pytest.fixture(autouse=True)
def _idle(request: pytest.FixtureRequest) -> Iterator[None]:
    """Wait after each test until no request is left in the engine."""
    yield
    if "api" in request.fixturenames:
        from tests.ui.served import wait_until

        api: Api = request.getfixturevalue("api")
        wait_until(lambda: api.engine.info().active_requests == 0 and api.hosting.limiter.active == 0)
