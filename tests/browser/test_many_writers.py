"""Test many writers on the page with the shipped model: no story is lost, mixed up, repeated or stuck."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gradio_client import Client
from playwright.sync_api import Browser, Page, expect

from jet.api import Request, SamplingParams
from jet.engine.engine import LocalEngine
from jet.engine.holder import ModelHolder
from jet.engine.loading import LocalConfig
from jet.engine.model_runner import ModelRunner
from jet.ui.page import build, launch
from tests.browser.input_devices import InputDevices, settle
from tests.browser.page_actions import (
    STORY,
    begin,
    expect_unlocked,
    reload,
    set_most_tokens,
    story,
    wait_for_words,
)
from tests.ui.served import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.thorough]

MODEL = Path(__file__).parents[2] / "assets" / "story-model"
USERS, TABS, ROUNDS = 10, 3, 2
# No model invents these names, so a story that has one has it from its writer.
NAMES = ["Abrox", "Bolvik", "Cindur", "Dravot", "Eskarn", "Fulmix", "Gorvat", "Hulbek"]
NAMES += ["Izquor", "Jumvar", "Krolux", "Lubnix", "Morvak"]


@pytest.fixture(scope="module")
def engine_and_url() -> Iterator[tuple[LocalEngine, str]]:
    """Serve the page over the real engine; yield the engine and the URL."""
    holder = ModelHolder()
    source = holder.handle(LocalConfig(str(MODEL), device="cpu"))
    engine = source.engine()
    demo = build(source)
    url = launch(demo)
    yield engine, url
    demo.close(verbose=False)
    holder.close()


def beginning(user: int, turn: int) -> str:
    return f"Once there was a child called {NAMES[user]}, and this was the {turn + 2}nd day of a long walk. "


def settings(user: int, turn: int) -> dict[str, float]:
    return {"seed": 100 * user + turn, "max_new_tokens": 12 + 5 * (user % 5)}


def alone(engine: LocalEngine, user: int, turn: int) -> str:
    """Return the text of a user's turn, generated alone and without cached states."""
    prompt = beginning(user, turn)
    chunks = engine.submit(Request(prompt, SamplingParams(**settings(user, turn)), healing=True))  # type: ignore[arg-type]
    return prompt + "".join(chunk.text for chunk in chunks)


def use(url: str, user: int, start: threading.Barrier) -> dict[int, str]:
    """Generate stories one after the other as one client, and cancel some; return the texts by turn."""
    chance = random.Random(user)
    client = Client(url, verbose=False)
    start.wait(60)
    done = {}
    for turn in range(ROUNDS):
        time.sleep(chance.uniform(0, 0.3))
        if chance.random() < 0.3:
            job = client.submit("A story without a reader", max_new_tokens=400, api_name="/generate")
            time.sleep(chance.uniform(0, 0.3))
            job.cancel()
        job = client.submit(beginning(user, turn), **settings(user, turn), api_name="/generate")
        *_, (text, stats) = job
        assert stats["finish_reason"] in ("length", "stop"), stats
        done[turn] = text
    return done


def open_tabs(browser: Browser, url: str) -> list[Page]:
    """Open tabs, each in its own browser context, with the beginning typed."""
    tabs = []
    for number in range(TABS):
        tabs.append(browser.new_context().new_page())
        tabs[-1].set_default_timeout(30_000)
        tabs[-1].goto(url)
        tabs[-1].wait_for_selector(STORY)
        set_most_tokens(tabs[-1], 40 + number)
        tabs[-1].fill(STORY, f"Tab number {number} is open. ")
    return tabs


@pytest.mark.timeout(180)
def test_many_clients_and_tabs_get_each_their_own_story(
    engine_and_url: tuple[LocalEngine, str], browser: Browser
) -> None:
    engine, url = engine_and_url
    expected = {(user, turn): alone(engine, user, turn) for user in range(USERS) for turn in range(ROUNDS)}
    tabs = open_tabs(browser, url)
    start = threading.Barrier(USERS + 1)
    with ThreadPoolExecutor(USERS) as pool:
        users = [pool.submit(use, url, user, start) for user in range(USERS)]
        start.wait(60)
        for tab in tabs:
            tab.click("#jet-continue", no_wait_after=True)
        wrong = {
            (user, turn): text
            for user, future in enumerate(users)
            for turn, text in future.result(120).items()
            if text != expected[user, turn]
        }
    assert wrong == {}
    for number, tab in enumerate(tabs):
        mine = f"Tab number {number} is open. "
        wait_for_words(tab, mine)
        expect_unlocked(tab)
        assert story(tab).startswith(mine)
        assert not any(name in story(tab) for name in NAMES), "only the own words"
        tab.context.close()
    nothing_is_left(engine)


@pytest.mark.timeout(120)
def test_a_reload_in_the_midst_of_a_story_frees_it_and_keeps_the_text(
    engine_and_url: tuple[LocalEngine, str], browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, url = engine_and_url
    finish, ends = engine._finish, list[str]()

    def note(job: object, reason: str, *given: object, **named: object) -> None:
        ends.append(reason)
        finish(job, reason, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "_finish", note)
    monkeypatch.setattr(engine._output, "_finish", note)
    monkeypatch.setattr(engine.tokenizer, "stop_ids", frozenset())  # the model ends no story by itself
    tab = browser.new_context().new_page()
    tab.set_default_timeout(30_000)
    tab.goto(url)
    tab.wait_for_selector(STORY)
    set_most_tokens(tab, 2000)
    begin(tab, "The rain had not stopped for days. ")
    seen = story(tab)
    reload(tab)
    nothing_is_left(engine)
    assert ends == ["aborted"], "the story of a closed page ends"
    expect(tab.locator(STORY)).to_have_value(re.compile("^" + re.escape(seen)))
    expect_unlocked(tab)
    kept = story(tab)
    set_most_tokens(tab, 20)
    tab.click("#jet-continue")
    wait_for_words(tab, kept)
    expect_unlocked(tab)
    assert story(tab).startswith(kept) and ends[0] == "aborted" and len(ends) == 2
    tab.context.close()
    nothing_is_left(engine)


@pytest.mark.timeout(120)
def test_half_words_from_input_methods_and_autocorrection_are_healed_and_nothing_is_doubled(
    engine_and_url: tuple[LocalEngine, str], browser: Browser
) -> None:
    engine, url = engine_and_url
    tab = browser.new_context().new_page()
    tab.set_default_timeout(30_000)
    tab.goto(url)
    tab.wait_for_selector(STORY)
    set_most_tokens(tab, 12)
    devices = InputDevices(tab)

    def compose(*steps: str) -> None:
        devices.compose(*steps)  # not committed: the click on Continue ends it

    for start, enter, half in (
        ("The keeper climbed the ", lambda: compose("l", "li", "lighth"), "lighth"),
        ("The keeper climbed the ", lambda: devices.commit("lighth"), "lighth"),
        ("She looked at the oc", lambda: devices.commit(" "), " "),
        ("彼は", lambda: compose("と", "とう", "灯"), "灯"),
    ):
        tab.fill(STORY, start)
        tab.focus(STORY)
        tab.keyboard.press("Control+End")
        enter()
        tab.click("#jet-continue")
        wait_for_words(tab, start + half)
        devices.compose("n", "ni")  # and while it generates
        devices.commit("你")
        expect_unlocked(tab)
        settle(tab)
        text = story(tab)
        assert text.startswith(start + half) and text.endswith("你"), text
        assert text.count("你") == 1 and f"{half}{half}" not in text, text
        if half == "lighth":
            assert text.startswith(start + "lighthouse"), text
    tab.context.close()
    nothing_is_left(engine)


def nothing_is_left(engine: LocalEngine) -> None:
    """Check that all slots are free, and that cached states can be evicted."""
    wait_until(lambda: not engine.info().active_requests + engine.info().queued_requests, timeout_s=30)
    runner = engine._runner
    assert isinstance(runner, ModelRunner)
    ledger = runner._pool.allocator
    assert ledger.reserved_pages == 0
    assert ledger.available == ledger._count, "only cached states use pages"
