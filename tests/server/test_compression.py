"""Test that the page is sent compressed, and that nothing else is changed."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from jet.server.compression import PageCompression

TEXT = "<p>A page.</p>" * 1000


def client() -> TestClient:
    async def answer(request: Request) -> Response:
        return HTMLResponse(TEXT)

    routes = [Route(path, answer) for path in ("/", "/config", "/other")]
    return TestClient(Starlette(routes=routes, middleware=[Middleware(PageCompression)]))


def test_the_page_is_compressed_for_whoever_takes_that() -> None:
    for path in ("/", "/config"):
        for taken, best in (("gzip", "gzip"), ("gzip, deflate, br", "br")):
            answer = client().get(path, headers={"Accept-Encoding": taken})
            assert answer.headers["content-encoding"] == best and answer.text == TEXT
            assert int(answer.headers["content-length"]) < len(TEXT) / 10
    assert "content-encoding" not in client().get("/", headers={"Accept-Encoding": "identity"}).headers
    assert "content-encoding" not in client().get("/other", headers={"Accept-Encoding": "gzip"}).headers
