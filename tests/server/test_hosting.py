"""Test a public page: limits, accounts, probes, and shutdown."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import httpx
import pytest
import yaml
from gradio_client import Client
from gradio_client.exceptions import AppError
from starlette.requests import Request

import app
from jet.server.accounts import Accounts, hash_password
from jet.server.hosting import Hosting
from jet.server.limits import PUBLIC, Limits
from jet.server.metrics import OLD_NAMES
from jet.ui.page import build, launch
from jet.ui.web import script
from tests.conftest import ROOT
from tests.engine.faulty_server import Answer, faulty_server
from tests.ui.served import wait_until
from tests.ui.stand_in import StandInSource


@contextmanager
def hosted(hosting: Hosting) -> Iterator[tuple[str, StandInSource]]:
    source = StandInSource()
    demo = build(source, hosting)
    url = launch(demo, hosting=hosting)
    try:
        yield url, source
    finally:
        demo.close(verbose=False)


LIMITS = Limits(stories_per_user=1, max_new_tokens=500, characters=200, body_bytes=20_000)


@pytest.fixture(scope="module")
def public() -> Iterator[tuple[str, StandInSource, Hosting]]:
    hosting = Hosting(LIMITS, metrics_token="secret token")
    with hosted(hosting) as (url, source):
        yield url, source, hosting


@pytest.fixture(scope="module")
def client(public: tuple[str, StandInSource, Hosting]) -> Client:
    return Client(public[0], verbose=False)


def test_what_is_too_long_is_refused_with_its_limit(client: Client) -> None:
    with pytest.raises(AppError, match="At most 500 new tokens at a time here, not 501"):
        client.predict("A", max_new_tokens=501, api_name="/generate")
    with pytest.raises(AppError, match="200 characters here, and this has 201"):
        client.predict("x" * 201, api_name="/generate")


def test_a_second_story_waits_until_the_first_has_ended(
    client: Client, public: tuple[str, StandInSource, Hosting]
) -> None:
    engine = public[1].stand_in
    engine.tokens_per_second = 5
    first = client.submit("A", max_new_tokens=500, api_name="/generate")
    wait_until(lambda: len(first.outputs()) > 1)
    with pytest.raises(AppError, match="1 of your stories are being written"):
        client.predict("B", api_name="/generate")
    engine.tokens_per_second = 200
    first.cancel()
    wait_until(lambda: public[2].limiter.active == 0)
    assert client.predict("B", max_new_tokens=1, api_name="/generate")[0] == "B B0"


def test_a_request_ends_at_its_deadline_and_keeps_its_text() -> None:
    with hosted(Hosting(Limits(deadline_s=1))) as (url, source):
        source.stand_in.tokens_per_second = 20
        client = Client(url, verbose=False)
        story, stats = client.predict("A", max_new_tokens=100_000, api_name="/generate")
        assert stats["finish_reason"] == "deadline" and stats["error"] is None
        assert story.startswith("A A0 A1")
        wait_until(lambda: not source.stand_in.live)


def test_a_body_that_is_too_large(public: tuple[str, StandInSource, Hosting]) -> None:
    answer = httpx.post(f"{public[0]}gradio_api/call/generate", json={"data": ["x" * 30_000]})
    assert answer.status_code == 413
    assert "too large" in answer.json()["detail"]


def test_health(public: tuple[str, StandInSource, Hosting]) -> None:
    url, _, hosting = public
    assert httpx.get(f"{url}healthz").json() == {"status": "ok"}
    hosting.limiter.closing_reason = "for this test"
    answer = httpx.get(f"{url}healthz")
    hosting.limiter.closing_reason = None
    assert (answer.status_code, answer.json()) == (503, {"status": "closing"})


@pytest.mark.parametrize(
    ("call", "status"),
    [
        ("GET /healthz HTTP/1.0", 200),
        ("HEAD /healthz HTTP/1.0", 200),
        ("GET /healthz HTTP/1.0|Host:", 200),
        ("GET /healthz HTTP/1.0|Connection: keep-alive", 200),
        ("GET /healthz HTTP/1.1|Host: localhost", 200),
        ("GET /healthz HTTP/1.0|Host: a|Host: b", 400),
        ("GET /healthz HTTP/1.0|Host: rebound.example", 421),
        ("GET / HTTP/1.0", 400),
        ("GET /config HTTP/1.0", 400),
        ("GET /metrics HTTP/1.0", 400),
        ("GET /healthz/../config HTTP/1.0", 400),
    ],
)
def test_a_probe_needs_no_host(public: tuple[str, StandInSource, Hosting], call: str, status: int) -> None:
    port = httpx.URL(public[0]).port
    with socket.create_connection(("127.0.0.1", port or 0), timeout=10) as probe:
        probe.sendall(call.replace("|", "\r\n").encode() + b"\r\nConnection: close\r\n\r\n")
        answer = probe.makefile("rb").read().decode()
    assert answer.split()[1] == str(status), answer
    if status == 200 and call.startswith("GET"):
        assert answer.endswith('{"status":"ok"}')


@pytest.mark.parametrize(
    "token", ["metrics-token\n", " metrics-token\r\n", "\tmetrics-token", "metrics-token"]
)
def test_a_metrics_token_is_the_same_with_blanks_around_it(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JET_METRICS_TOKEN", token)
    hosting = app._hosting(vars(app.read_options([])), api_only=True)
    assert "metrics-token" not in repr(hosting)

    def status(said: str) -> int:
        request = Request({"type": "http", "headers": [(b"authorization", said.encode())]})
        return asyncio.run(hosting._metrics(request)).status_code

    assert status("Bearer metrics-token") == status("bearer  metrics-token ") == 200
    for wrong in ("", "metrics-token", "Basic metrics-token", "Bearer metrics-toke", "Bearer \xff"):
        assert status(wrong) == 401


@pytest.mark.parametrize("token", ["metrics\ntoken-1", "metrics-tökен-1", "metrics\x07token-1", " \n"])
def test_a_metrics_token_that_cannot_be_sent_is_named_and_not_said(
    token: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JET_METRICS_TOKEN", token)
    assert app.main([]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("Error: JET_METRICS_TOKEN ") and said.err.count("\n") == 1
    assert len(token) < 4 or (token not in said.err + said.out and "metrics" not in said.err)


def test_metrics_count_what_was_written_and_show_no_text(
    client: Client, public: tuple[str, StandInSource, Hosting]
) -> None:
    url = public[0]

    def read() -> dict[str, float]:
        answer = httpx.get(f"{url}metrics", headers={"Authorization": "Bearer secret token"})
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
        assert "Zebra" not in answer.text
        return {
            name: float(value) for name, value in re.findall(r"^(jet_\S+) (\S+)$", answer.text, re.MULTILINE)
        }

    before = read()
    client.predict("Zebra", max_new_tokens=7, api_name="/generate")
    after = read()
    assert after["jet_generation_tokens_total"] - before["jet_generation_tokens_total"] == 7
    assert after["jet_prompt_tokens_total"] - before["jet_prompt_tokens_total"] == 1
    ended = 'jet_requests_total{reason="length"}'
    assert after[ended] - before[ended] == 1
    first_token = "jet_time_to_first_token_seconds_count"
    assert after[first_token] - before[first_token] == 1
    assert after["jet_engine_ready"] == 1 and after["jet_num_requests_admitted"] == 0
    for name, old in OLD_NAMES.items():
        renamed = {key.replace(name, old): value for key, value in after.items() if key.startswith(name)}
        assert renamed and renamed.items() <= after.items()
    assert httpx.get(f"{url}metrics").status_code == 401


def test_nothing_is_served_from_the_disk(public: tuple[str, StandInSource, Hosting]) -> None:
    for path in ("README.md", str(ROOT / "README.md"), "/etc/passwd", "assets/prompts.json"):
        for route in ("gradio_api/file=", "gradio_api/file/", "file=", "static/", "assets/"):
            assert httpx.get(f"{public[0]}{route}{path}").status_code == 404


def test_browsers_keep_the_script_until_it_changes(public: tuple[str, StandInSource, Hosting]) -> None:
    text, address = script()
    current = httpx.get(public[0] + address)
    assert current.text == text and current.headers["content-type"].startswith("text/javascript")
    assert "immutable" in current.headers["cache-control"]
    assert f'href=\\"{address}\\"' in httpx.get(public[0]).text  # fetched early
    older = httpx.get(
        f"{public[0]}web/0123456789abcdef/app.js"
    )  # which a page from before an update asks for
    assert older.text == text and older.headers["cache-control"] == "no-store"


def test_analytics_are_off(public: tuple[str, StandInSource, Hosting]) -> None:
    config = httpx.get(f"{public[0]}config").json()
    assert config["analytics_enabled"] is False


def test_only_who_has_an_account_gets_in() -> None:
    known = Accounts({"ann": hash_password("ann's password"), "bob": hash_password("bob's password")})
    with hosted(Hosting(Limits(stories_per_user=1), known)) as (url, source):
        source.stand_in.tokens_per_second = 5
        for path in ("config", "gradio_api/info", "gradio_api/queue/data?session_hash=x"):
            assert httpx.get(f"{url}{path}").status_code == 401
        call = {"data": ["A"], "session_hash": "x", "fn_index": 0}
        assert httpx.post(f"{url}gradio_api/queue/join", json=call).status_code == 401
        assert httpx.get(f"{url}healthz").status_code == 200
        with pytest.raises(Exception, match=r"(?i)credentials|login|auth"):
            Client(url, verbose=False, auth=("ann", "bob's password"))
        ann = Client(url, verbose=False, auth=("ann", "ann's password"))
        bob = Client(url, verbose=False, auth=("bob", "bob's password"))
        job = ann.submit("A", max_new_tokens=100, api_name="/generate")
        wait_until(lambda: len(job.outputs()) > 1)
        with pytest.raises(AppError, match="of your stories"):
            ann.predict("A", api_name="/generate")
        assert bob.predict("B", max_new_tokens=1, api_name="/generate")[0] == "B B0", (
            "limits are each one's own"
        )
        job.cancel()


@pytest.mark.thorough
def test_a_terminated_server_lets_its_stories_end(tmp_path: Path) -> None:
    enough = threading.Event()  # however long the machine takes for the rest

    def tell(answer: Answer) -> None:
        answer.head()
        while not enough.wait(0.05):
            answer.word(" on")
        answer.word(" the end")
        answer.done()

    with faulty_server() as server:
        server.answer(tell)
        command = [sys.executable, "app.py", "--engine-url", server.url]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as page:
            assert page.stdout is not None
            try:
                lines = iter(page.stdout.readline, "")
                url = next(found[1] for line in lines if (found := re.search(r"is at (\S+)", line)))
                next(line for line in lines if "License" in line)
                client = Client(url, verbose=False)
                job = client.submit("A", max_new_tokens=4000, api_name="/generate")
                wait_until(lambda: len(job.outputs()) > 3, 60)
                page.send_signal(signal.SIGTERM)
                assert "Waiting for stories to end: 1." in next(lines)
                assert httpx.get(f"{url}healthz").status_code == 503
                with pytest.raises(AppError, match="about to be restarted"):
                    client.predict("B", api_name="/generate")
                enough.set()
                assert job.result(timeout=60)[0].endswith(" on the end")
                assert page.wait(60) == 0
            finally:
                enough.set()
                page.kill()


def test_the_documented_limits_are_the_real_ones() -> None:
    rows = re.findall(
        r"^\| `(?!jet_)(\w+)` \| (\S+) \| (\S+) \|", (ROOT / "docs/hosting.md").read_text(), re.MULTILINE
    )

    def said(limits: Limits, name: str) -> str:
        value = getattr(limits, name)
        return "none" if value is None else f"{value:,}"

    names = [field.name for field in fields(Limits)]
    assert rows == [(name, said(Limits(), name), said(PUBLIC, name)) for name in names]


@pytest.mark.parametrize("file", ["deploy/Dockerfile", "deploy/compose.yaml", "deploy/jet-stories.service"])
def test_the_examples_start_the_page_with_options_that_exist(file: str) -> None:
    text = (ROOT / file).read_text()
    for option in re.findall(r"(?<=[\s\"])--(?:public|proxies|auth|limit|host|port|model)\b", text):
        value = {"--public": [], "--limit": ["stories=1"]}.get(option, ["1"])
        assert app.read_options([option, *value])
    if file.endswith(".yaml"):
        services = yaml.safe_load(text)["services"]
        context = ROOT / "deploy" / services["page"]["build"]["context"]
        assert (context / services["page"]["build"]["dockerfile"]).is_file()
        assert app.read_options(services["page"]["command"]).proxies == 1
    if file.endswith("Dockerfile"):
        for source in re.findall(r"^COPY (?:--\S+ )?(.+) \S+$", text, re.MULTILINE):
            assert all((ROOT / name).exists() for name in source.split())
        entry = json.loads(re.findall(r"^ENTRYPOINT (.+)$", text, re.MULTILINE)[0])
        assert app.read_options([*entry[2:], *json.loads(re.findall(r"^CMD (.+)$", text, re.MULTILINE)[0])])
    if file.endswith(".service"):
        command = re.findall(r"^ExecStart=(.+)$", text, re.MULTILINE)[0].split()
        assert app.read_options(command[2:]).public


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--limit", "storys=3"], "there is no limit 'storys'"),
        (["--auth", "nowhere.txt"], "nowhere.txt cannot be read"),
    ],
)
def test_hosting_options_that_are_wrong_are_one_line_and_code_2(
    capsys: pytest.CaptureFixture[str], options: list[str], complaint: str
) -> None:
    assert app.main(options) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1
