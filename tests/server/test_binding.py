"""Test that a port is held from the moment it is chosen, so that pages may start at once."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import gradio as gr
import httpx
import pytest
from gradio import http_server

from jet.server.binding import AddressError, check_address, close, listen
from jet.server.held_port import serving_on
from jet.ui.page import build, launch
from tests.ui.stand_in import StandInSource


def test_a_port_that_was_chosen_is_held() -> None:
    first = listen(None, None)
    second = listen("127.0.0.1", None)
    try:
        port = first[0].getsockname()[1]
        assert second[0].getsockname()[1] != port
        with pytest.raises(AddressError, match=f"in use .port {port} of 127.0.0.1"):
            listen(None, port)
        with pytest.raises(AddressError):
            check_address(None, port)
    finally:
        close(first + second)
    close(listen(None, port))


def test_a_name_is_listened_on_at_every_address_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [(socket.AF_INET, 0, 0, "", ("127.0.0.1", 0)), (socket.AF_INET, 0, 0, "", ("127.0.0.2", 0))]
    absent = (socket.AF_INET, 0, 0, "", ("192.0.2.1", 0))  # which no machine has
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [absent, *places])
    found = listen("here", None)
    assert [one.getsockname()[0] for one in found] == ["127.0.0.1", "127.0.0.2"]
    assert len({one.getsockname()[1] for one in found}) == 1
    close(found)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [absent])
    with pytest.raises(AddressError, match="Cannot assign requested address"):
        listen("here", None)


def test_gradio_serves_on_the_sockets_and_a_failed_launch_gives_them_back() -> None:
    listening = listen(None, None)
    port = listening[0].getsockname()[1]
    with gr.Blocks(analytics_enabled=False) as page:
        gr.HTML("here")
    original = http_server.start_server
    with serving_on(listening):
        page.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False)
    assert http_server.start_server is original
    assert page.local_url == f"http://127.0.0.1:{port}/" and page.server_port == port
    assert httpx.get(f"{page.local_url}config").status_code == 200
    page.close(verbose=False)
    again = listen(None, port)
    with pytest.raises(KeyError), serving_on(again):
        raise KeyError
    close(listen(None, port))


def test_two_pages_that_start_at_once_are_both_there() -> None:
    pages = [build(StandInSource()) for _ in range(2)]
    both = threading.Barrier(2)

    def start(page: gr.Blocks) -> str:
        both.wait(30)
        return launch(page)

    with ThreadPoolExecutor(2) as starters:
        urls = list(starters.map(start, pages))
    try:
        assert len(set(urls)) == 2
        for url in urls:
            assert httpx.get(f"{url}config", trust_env=False).status_code == 200
    finally:
        for page in pages:
            page.close(verbose=False)
