"""Serves the page: greets, carries out orders, and writes. One `Desk` serves all visitors.

Everything here runs on the server's event loop, hence without locks; what takes long runs in threads, on
values that never change.
"""

from __future__ import annotations

import asyncio
import html
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack, aclosing, suppress

import gradio as gr

from jet.api import RequestError, RequestStats, SamplingParams
from jet.engine.holder import EngineSource
from jet.server.hosting import Hosting, user_of
from jet.story.errors import StoryError
from jet.ui import finish_messages, highlights, panel, views
from jet.ui.actions import ACTIONS, WHILE_WRITING, Reply
from jet.ui.commands import Order, read_order, read_story
from jet.ui.deltas import LONG, Sent
from jet.ui.generation import Author, Failed, State
from jet.ui.inputs import read_controls
from jet.ui.outputs import Told, Update
from jet.ui.reporting import Reporter, ReportState
from jet.ui.sessions import Tab, Visit, Visits
from jet.ui.streamed_request import BEAT_S
from jet.ui.typed_edits import take_over

_PAUSES = ("look", "keep", "resume", "new")  # the panel of a long story is drawn anew with these


class Desk:
    """What the events of the page call."""

    def __init__(self, source: EngineSource, hosting: Hosting | None = None) -> None:
        self._source = source
        self._hosting = hosting or Hosting()
        self._author = Author(source, self._hosting)
        self._visits = Visits()
        self._reporter = Reporter(source)

    async def greet(self, request: gr.Request) -> AsyncIterator[Update]:
        """On opening the page. Yields (about, panel): loading, and then what runs here."""
        while not self._source.ready:
            yield panel.loading(self._source.progress), gr.skip()
            await asyncio.sleep(BEAT_S)
        info = await self._author.load()
        busy = self._visits.known(_tab(request)) and self._visits.of(_tab(request)).busy
        yield panel.about(info), gr.skip() if busy else panel.panel(None, info)

    def leave(self, request: gr.Request) -> None:
        """The tab is closed, or has lost its connection."""
        self._visits.leave(_tab(request))

    async def stop(self, request: gr.Request, order_text: str = "") -> None:
        """Stop what this page is writing, or an order of it that is still on its way here."""
        try:
            order = read_order(order_text) if order_text else None
        except StoryError:
            order = None
        # Whose story is known elsewhere sends it again with the order that is to be stopped.
        if self._visits.known(_tab(request)) or (order is not None and not order.known):
            visit = self._visits.of(_tab(request))
            visit.stop_order(0 if order is None else order.number, None if order is None else _seen(order))

    async def report(self) -> AsyncIterator[str]:
        """Make a performance report. Yields how it stands, and then the report, as HTML."""
        if not self._hosting.own:
            message = "This page is open to others, who would wait for it: run `make report` on the machine."
            yield views.report(ReportState("failed", said=message))
            return
        shown = None
        async with aclosing(self._reporter.watch()) as states:
            async for state in states:
                if state != shown:
                    shown = state
                    yield views.report(state)

    async def stop_report(self) -> None:
        """End the report under way; what it has measured stays."""
        self._reporter.stop()

    async def act(self, request: gr.Request, order_text: str) -> str:
        """Carry out an order that needs no model. Returns the reply, with the story in it if that changes."""
        try:
            order = read_order(order_text)
        except StoryError as error:
            return _json({"error": str(error)})
        if self._forgotten(request, order):
            return _json({"lost": True, "n": order.number})
        visit = self._visits.of(_tab(request))
        if order.do == "resume":  # of what was being written when the connection was lost nothing arrived
            await visit.rest()
        failed, story = False, visit.document.text
        try:
            story = read_story(order.fields, story)
            reply = await _carry_out(visit, story, order)
        except (StoryError, RequestError) as error:
            failed, reply = True, {"error": str(error)}
        text = visit.document.text
        reply = await self._with_view(visit, order, {**reply, "same": text == story})
        reply["panel"] = await self._rest(visit, order)
        # What could not be taken over stays in the box.
        unchanged = failed or text == story or (visit.busy and order.do != "show")
        visit.picked = visit.picked or not unchanged
        self._author.count_ahead(visit.document, visit.key)
        return _json(reply if unchanged else {**reply, "story": text})

    async def write(self, request: gr.Request, order_text: str) -> AsyncIterator[Update]:
        """Go on with the story. Yields what becomes of `updates.OUTPUTS` until it ends.

        Of a long story only what changes is sent, and the page puts it in its place.
        """
        with ExitStack() as place:
            try:
                order = read_order(order_text)
                if self._forgotten(request, order):
                    yield Told().update(wrote=_json({"lost": True, "n": order.number}))
                    return
                visit = self._visits.of(_tab(request))
                sampling = read_controls(order.fields.take("settings", dict), visit.document.sampling)
                if visit.busy:
                    return
                take_over(visit.document, order.fields, read_story(order.fields, visit.document.text))
                if order.number <= visit.unwanted or order.fields.has("unwanted"):
                    yield await self._stopped(visit, order)
                    return
                self._hosting.gate.check(visit.document.text, sampling)
                place.enter_context(self._hosting.gate.enter(user_of(request)))
            except (RequestError, StoryError) as error:
                if (found := self._visits.of(_tab(request))).busy is False:
                    self._note(found, State.failed(str(error)))
                yield Told().update(wrote=_json({"n": _number(order_text)}), **self._failure(str(error)))
                return
            async with aclosing(self._write(visit, order, sampling)) as updates:
                async for update in updates:
                    yield update

    async def _write(
        self, visit: Visit, order: Order, sampling: SamplingParams
    ) -> AsyncGenerator[Update, None]:
        visit.document.sampling = sampling
        visit.busy, visit.stopped, visit.picked = True, False, False
        visit.number, visit.seen = order.number, None
        sent, told = Sent(visit.document.text), Told()
        last = State()
        try:
            begun = panel.panel(State().stats, self._author.info)
            yield told.update(panel=begun, stop=gr.Button(interactive=True))
            async with aclosing(self._author.write(visit, order, sampling.with_seed())) as states:
                async for last in states:
                    yield told.update(**self._state(visit, order, last, sent))
        except Failed as error:
            last = State.failed(str(error))
            yield told.update(**self._failure(str(error)))
        finally:
            visit.busy, visit.writings = False, []
            self._note(visit, last)
        text = visit.document.text
        story, patch = (text, None) if visit.picked else sent.news(text)
        wrote: Reply = {"wrote": True, "patch": patch, **({} if patch else {"story": story})}
        wrote |= finish_messages.said(last, order, visit.document)
        reply = await self._with_view(visit, order, wrote)
        rest = None
        if self._author.info is not None and self._source.ready:
            rest = panel.at_rest(visit.written, text, await self._author.load(), None)
        yield told.update(story=story, wrote=_json(reply), panel=rest)

    def _note(self, visit: Visit, state: State) -> None:
        """Remember what the panel is to show until something else is on the sheet."""
        stories = max(1, len(state.ways))
        visit.written = panel.Written(state.stats, tuple(state.rates), stories, visit.document.text)

    async def _rest(self, visit: Visit, order: Order) -> str | None:
        """The panel of the sheet as it is now; None where that waits for a pause: counting takes long."""
        document = visit.document
        long = len(document.text) >= LONG and order.do not in _PAUSES
        if visit.busy or long or self._author.info is None or not self._source.ready:
            return None
        used = None
        if visit.written is None or visit.written.text != document.text:  # else the panel knows it
            with suppress(RequestError):
                prompt = await self._author.prompt(document, visit.key)
                used = None if prompt is None else prompt.tokens
        return panel.at_rest(visit.written, document.text, await self._author.recent_info(), used)

    async def _stopped(self, visit: Visit, order: Order) -> Update:
        """What the page is told of an order that was to be stopped before it came: nothing was written."""
        stats = RequestStats(phase="done", finish_reason="aborted")
        reply = await self._with_view(visit, order, {"wrote": True, "patch": None})
        return Told().update(panel=panel.panel(stats, self._author.info), wrote=_json(reply))

    def _state(self, visit: Visit, order: Order, state: State, sent: Sent) -> dict[str, str | None]:
        shown = panel.panel(state.stats, self._author.info, state.rates, max(1, len(state.ways)))
        if state.stats.error is not None:
            _warn(state.stats.error)
        ways = views.ways(state.ways, state.stats.finish_reason is None, order.number)
        story, patch = sent.news(visit.document.text)
        place = {} if state.behind is None else {"behind": state.behind}
        told = {**(patch or {}), **place}
        live = views.carried({**told, "n": order.number}) if told and not state.ways else None
        seed = None if state.stats.seed is None else str(state.stats.seed)
        return {"story": story, "panel": shown, "last_seed": seed, "ways": ways, "live": live}

    def _failure(self, message: str) -> dict[str, str | None]:
        _warn(message)
        return {"panel": panel.panel(State.failed(message).stats, self._author.info)}

    def _forgotten(self, request: gr.Request, order: Order) -> bool:
        """Whether the page means a story that is not here: then it sends its own copy again."""
        return order.known and order.do != "restore" and not self._visits.known(_tab(request))

    async def _with_view(self, visit: Visit, order: Order, reply: Reply) -> Reply:
        """The reply with how things stand, as far as the page shows it."""
        document = visit.document
        shown: Reply = {"undo": document.can_undo, "redo": document.can_redo, "title": document.title}
        shown["retry"] = document.can_retry
        shown["branches"] = sorted(document.tree.branches)
        if not visit.busy:
            shown["marks"] = highlights.MARKS[order.tint](document)
        views_now: dict[str, str] = {}
        if order.drawer == "branches":
            views_now["jet-tree"] = views.branches(document.outline())
        elif order.drawer == "guidance":
            views_now["jet-sees"] = await self._meter(visit)
        elif order.drawer == "history":
            views_now["jet-past"] = views.history(visit.log)
        return {**shown, **reply, "n": order.number, "html": {**views_now, **reply.get("html", {})}}

    async def _meter(self, visit: Visit) -> str:
        try:
            return views.meter(await self._author.prompt(visit.document, visit.key))
        except RequestError as error:
            return views.meter(None, str(error))


async def _carry_out(visit: Visit, story: str, order: Order) -> Reply:
    if order.do not in ACTIONS:
        raise StoryError(f"The page asked for {order.do[:40]!r}, which is not known here: please reload it.")
    if visit.busy and order.do not in WHILE_WRITING:
        raise StoryError("The model is still writing: stop it first.")
    before = order.fields.take_text("before") if order.fields.has("before") else story
    if not visit.busy and order.do != "restore":
        take_over(visit.document, order.fields, before)
    return await ACTIONS[order.do](visit, order.fields)


def _tab(request: gr.Request) -> Tab:
    """Whose page it is. Browsers make up the names of their tabs, so another user's may have the same."""
    return user_of(request) if getattr(request, "username", None) else "", request.session_hash


def _number(order_text: str) -> int:
    try:
        return read_order(order_text).number
    except StoryError:
        return 0


def _seen(order: Order) -> int | None:
    with suppress(StoryError):
        return order.fields.take("seen", int) if order.fields.has("seen") else None
    return None


def _json(reply: Reply) -> str:
    return json.dumps(reply, ensure_ascii=False)


def _warn(message: str) -> None:
    """The panel says it too, but on a phone it is below the fold."""
    gr.Warning(html.escape(message), title="That did not work", duration=6)
