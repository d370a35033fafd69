"""Test that no attack of the audit succeeds on a public page, and that each would be noticed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import httpx
import pytest
from starlette.requests import Request

from jet.server.accounts import Accounts, hash_password
from jet.server.hosting import Hosting
from jet.server.limits import PUBLIC
from jet.server.openai.keys import Caller
from jet.server.openai.service import ApiService
from jet.ui.page import build, launch
from scripts.audit.trials import TRIALS, Trial
from scripts.audit.wire import Tab, Target
from scripts.audit_public import API_TRIALS, breach_of, own_api, own_page
from tests.conftest import ROOT
from tests.ui.stand_in import StandInSource

pytestmark = pytest.mark.thorough

NAMES = [f"{trial.group}: {trial.what}" for trial in TRIALS]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with own_page() as url:
        yield url


@pytest.mark.parametrize("number", range(len(TRIALS)), ids=NAMES)
def test_nothing_gets_through(url: str, number: int) -> None:
    assert breach_of(TRIALS[number], Target(url, f"127.0.2.{number + 1}")) is None


def test_nothing_gets_through_an_api_with_keys() -> None:
    with own_api() as (url, key):
        for number, one in enumerate(API_TRIALS):
            assert breach_of(one, Target(url, f"127.0.4.{number + 1}", key)) is None, one.what
        lost = breach_of(API_TRIALS[-1], Target(url, "127.0.4.99", "not-a-key-of-it"))
        assert lost is not None and "does not take the key" in lost


@pytest.mark.parametrize("hole", ["anybody is let in", "the path may have the key"])
def test_an_api_that_lets_anybody_in_is_found(hole: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check = ApiService.caller

    def caller(service: ApiService, request: Request) -> Caller:
        if hole == "anybody is let in" or "api_key" in request.query_params:
            return Caller()
        return check(service, request)

    monkeypatch.setattr(ApiService, "caller", caller)
    with own_api() as (url, key):
        found = breach_of(API_TRIALS[-1], Target(url, "127.0.4.1", key))
    assert found is not None and ("got 400" in found or "got 200" in found)


def test_without_the_guard_the_trials_find_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hosting, "app_kwargs", lambda hosting, local, routes: {"routes": routes})
    demo = build(StandInSource(), Hosting(PUBLIC))
    target = Target(launch(demo, hosting=Hosting(PUBLIC)), "127.0.3.1")

    def found(trial: Trial) -> bool:
        return breach_of(trial, target) is not None

    try:
        wanted = (
            "a flood of calls",
            "passwords by the hundred",
            "answers without the headers that bind a browser",
        )
        assert all(found(trial) for trial in TRIALS if trial.what in wanted)
        assert any(
            found(trial) for trial in TRIALS if trial.what.startswith("headers that only a reverse proxy")
        )
    finally:
        demo.close(verbose=False)


def test_with_accounts_a_tab_belongs_to_its_account_too() -> None:
    hosting = Hosting(PUBLIC, Accounts({name: hash_password(f"{name}'s own") for name in ("ann", "bob")}))
    demo = build(StandInSource(), hosting)
    url = launch(demo, hosting=hosting)

    def tab(name: str) -> Tab:
        form = {"username": name, "password": f"{name}'s own"}
        cookies = httpx.post(f"{url}login", data=form).cookies
        cookie = "Cookie: " + "; ".join(f"{key}={value}" for key, value in cookies.items())
        target = Target(url)
        target._page = json.loads(target.call("/config", headers=[cookie]).text)
        return Tab(target, "shared", [cookie])

    try:
        ann, bob = tab("ann"), tab("bob")
        ann.act("sync", "the butler did it 8261")
        assert "lost" in bob.act("autosave", known=True)
        assert "8261" not in json.dumps(bob.act("autosave"))
        assert "8261" in ann.export("txt", "the butler did it 8261")[1]
        assert bob.target.post("/gradio_api/run/predict", {"data": []}).status == 401, (
            "and without one every caller is refused"
        )
    finally:
        demo.close(verbose=False)


def test_no_other_machine_is_tried() -> None:
    for address in ("http://192.0.2.1:7860", "http://10.0.0.1", "nonsense"):
        with pytest.raises((ValueError, OSError)):
            Target(address)


def test_the_list_of_what_was_tried_is_the_real_one() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", (ROOT / "docs/security.md").read_text(), re.MULTILINE)
    assert [f"{group}: {what}" for group, what in rows] == NAMES
