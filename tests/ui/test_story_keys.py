"""Test that a story's key isolates its states: found again by the key, shared with no other, removable."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import app
from jet.cache.disk_store import StateFolder, durable_salt, is_durable
from jet.server.hosting import Hosting
from jet.ui.handlers import PageController
from tests.ui.stand_in import StandInSource
from tests.ui.test_handlers import Tab

KEY = "0123456789abcdef0123456789abcdef.lx1abcd"


def salts(source: StandInSource, hosting: Hosting, *tabs: tuple[str, dict[str, str], str]) -> list[str]:
    """Write a little in each tab (session, fields, account); return the salts that the engine got."""

    async def play() -> None:
        controller = PageController(source, hosting)
        for session, fields, account in tabs:
            tab = Tab(controller, session)
            tab.request = SimpleNamespace(session_hash=session, username=account or None)
            tab.text = "A"
            await tab.write(**fields)

    asyncio.run(play())
    return [request.cache_salt for request in source.stand_in.requests]


def test_the_same_story_has_the_same_salt_in_any_tab_and_process(
    source: StandInSource, tmp_path: Path
) -> None:
    hosting = Hosting(states=StateFolder(tmp_path))
    one, again, other, own, bad, ann, ben = salts(
        source,
        hosting,
        ("one", {"key": KEY}, ""),
        ("two", {"key": KEY}, ""),
        ("three", {"key": KEY + "x"}, ""),
        ("four", {}, ""),
        ("five", {"key": "guess.me"}, ""),
        ("six", {"key": KEY}, "ann"),
        ("seven", {"key": KEY}, "ben"),
    )
    assert one == again == durable_salt("page", "", KEY)
    assert len({one, other, own, bad, ann, ben}) == 6
    assert [is_durable(salt) for salt in (one, other, own, bad, ann, ben)] == [
        True,
        True,
        False,
        False,
        True,
        True,
    ]
    assert KEY not in one


def test_without_stored_states_a_tab_has_a_salt_of_its_own(source: StandInSource) -> None:
    one, two = salts(source, Hosting(), ("one", {"key": KEY}, ""), ("two", {"key": KEY}, ""))
    assert one != two and not is_durable(one)


def test_removing_a_story_removes_its_states(source: StandInSource, tmp_path: Path) -> None:
    states, forgotten = StateFolder(tmp_path / "states"), list[str]()
    states.open()
    source.stand_in.forget = forgotten.append  # type: ignore[attr-defined]
    gone: list[Any] = []

    async def play() -> None:
        tab = Tab(PageController(source, Hosting(states=states)))
        tab.request = SimpleNamespace(session_hash="one", username="ann")
        gone.extend([await tab.act("forget_story", of=of) for of in (KEY, "guess.me", 7)])
        assert "error" in await tab.act("sync", key=7)

    asyncio.run(play())
    assert forgotten == [durable_salt("page", "user ann", KEY)]
    assert [("error" in reply) for reply in gone] == [False, False, True]


@pytest.mark.parametrize(
    ("arguments", "stored"),
    [
        ("", True),
        ("--state-gb 0", False),
        ("--public", False),
        ("--public --state-gb 2", True),
        ("--public --state-dir there", True),
        ("--state-dir there --state-gb 0.5", True),
    ],
)
def test_own_pages_store_states_and_public_ones_only_if_told(
    arguments: str, stored: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JET_CACHE_DIR", str(tmp_path))
    options = vars(app.read_options(arguments.split()))
    hosting = app._hosting(options, api_only=False)
    assert (hosting.states is not None) == stored
    assert not {"state_dir", "state_gb"} & options.keys()
    if hosting.states is not None:
        assert hosting.states.path == (Path("there") if "there" in arguments else tmp_path / "states")
        assert hosting.states.limit == {"--state-gb 2": 2e9, "--state-gb 0.5": 5e8}.get(
            arguments[arguments.find("--state-gb") :], 4e9
        )


def test_a_program_without_a_page_and_a_remote_engine_store_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert app._hosting(vars(app.read_options([])), api_only=True).states is None
    for arguments in (
        ["--engine-url", "http://x", "--state-gb", "1"],
        ["--state-gb", "-1"],
        ["--state-gb", "x"],
    ):
        with pytest.raises(SystemExit):
            app.read_options(arguments)
    assert "--state-gb" in capsys.readouterr().err
