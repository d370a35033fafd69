"""Event handlers of the page: load, run commands, generate. One `PageController` serves all sessions.

Everything here runs on the server's event loop, hence without locks; slow work runs in threads, on immutable
values.
"""

from __future__ import annotations

import asyncio
import html
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import ExitStack, aclosing, suppress

import gradio as gr

from jet.api import RequestError, RequestStats, SamplingParams
from jet.engine.holder import EngineHandle
from jet.engine.model_switch import ModelSwitch
from jet.server.hosting import Hosting, user_id_of
from jet.story.context import Prompt
from jet.story.document import Document
from jet.story.errors import StoryError
from jet.story.siblings import versions
from jet.ui import finish_messages, heeds, highlights, panel, views
from jet.ui.actions import ALLOWED_WHILE_GENERATING, COMMANDS, CommandHandler, Reply
from jet.ui.commands import Command, parse_command, parse_story
from jet.ui.deltas import DELTA_MIN_CHARACTERS, TextDelta
from jet.ui.generation import GenerationError, GenerationService, GenerationState
from jet.ui.inputs import parse_controls
from jet.ui.models import ModelCommands
from jet.ui.offers import make_offer
from jet.ui.outputs import OutputCache, Update
from jet.ui.reporting import Reporter, ReportState
from jet.ui.sessions import Session, SessionStore, TabKey
from jet.ui.story_keys import forget_story, name_story
from jet.ui.streamed_request import HEARTBEAT_S
from jet.ui.typed_edits import apply_typed_edits

_IDLE_COMMANDS = (
    "sync",
    "autosave",
    "resume",
    "new_story",
)  # the panel of a long story is drawn anew with these


class PageController:
    """The event handlers."""

    def __init__(
        self, source: EngineHandle, hosting: Hosting | None = None, models: ModelSwitch | None = None
    ) -> None:
        """Create the handlers for one page.

        `source` serves the requests. `models` changes the model; None if the page does not offer that.
        """
        self._source = source
        self._hosting = hosting or Hosting()
        self._models = ModelCommands(models, folders=self._hosting.is_private)
        self._commands = COMMANDS | self._models.commands()
        self._generation = GenerationService(source, self._hosting)
        self._sessions = SessionStore()
        self._reporter = Reporter(source)

    async def load(self, request: gr.Request) -> AsyncIterator[Update]:
        """Handle opening the page. Yields (model info, panel) while loading, and once the model is loaded."""
        while not self._source.ready:
            yield panel.loading(self._source.progress), gr.skip()
            await asyncio.sleep(HEARTBEAT_S)
        info = await self._generation.load()
        busy = self._sessions.has(tab_key(request)) and self._sessions.get(tab_key(request)).generating
        yield panel.about(info), gr.skip() if busy else panel.panel(None, info)

    def disconnect(self, request: gr.Request) -> None:
        """Handle a closed tab or a lost connection."""
        self._sessions.disconnect(tab_key(request))

    async def stop(self, request: gr.Request, command_text: str = "") -> None:
        """Stop this tab's generation, or a command that is still on its way."""
        try:
            command = parse_command(command_text) if command_text else None
        except StoryError:
            command = None
        # A page with its story in another server's memory sends it again with the command to stop.
        if self._sessions.has(tab_key(request)) or (command is not None and not command.story_known):
            session = self._sessions.get(tab_key(request))
            session.stop_command(
                0 if command is None else command.number, None if command is None else _visible_end(command)
            )

    async def offer_words(self, request: gr.Request, command_text: str) -> str:
        """Generate words to offer after the text. Returns {"n": command number, "text": words} as JSON.

        With the field `off`, only withdraws the last offer and returns "".
        """
        with suppress(StoryError, RequestError):
            command = parse_command(command_text)
            if not self._sessions.has(tab_key(request)):
                return ""
            session = self._sessions.get(tab_key(request))
            session.drop_offer()
            if not command.fields.has("off"):
                user = user_id_of(request)
                text = await make_offer(self._generation, self._hosting, session, command, user)
                return _to_json({"n": command.number, "text": text})
        return ""

    async def report(self) -> AsyncIterator[str]:
        """Make a performance report. Yields its progress and then the report, as HTML."""
        if not self._hosting.is_private:
            message = "This page is open to others, who would wait for it: run `make report` on the machine."
            yield views.report(ReportState("failed", message=message))
            return
        last_shown = None
        async with aclosing(self._reporter.watch()) as states:
            async for state in states:
                if state != last_shown:
                    last_shown = state
                    yield views.report(state)

    async def stop_report(self) -> None:
        """Stop the running report. Its measurements so far are kept."""
        self._reporter.stop()

    async def run_command(self, request: gr.Request, command_text: str) -> str:
        """Run a command that needs no model. Returns the reply, with the story if that has changed."""
        try:
            command = parse_command(command_text)
        except StoryError as error:
            return _to_json({"error": str(error)})
        if self._is_story_missing(request, command):
            return _to_json({"lost": True, "n": command.number})
        session = self._sessions.get(tab_key(request))
        if command.type == "resume":  # of what was being written when the connection was lost nothing arrived
            await session.stop_and_wait()
        failed, story = False, session.document.text
        account = tab_key(request)[0]
        try:
            name_story(session, command.fields, account, self._hosting.states)
            if command.type == "forget_story":
                await forget_story(command.fields, account, self._hosting.states, self._source)
            story = parse_story(command.fields, story)
            reply = await _execute(self._commands, session, story, command)
        except (StoryError, RequestError) as error:
            failed, reply = True, {"error": str(error)}
        text = session.document.text
        prompts = _PromptOnce(self._generation, session)
        reply = await self._with_views(session, command, {**reply, "same": text == story}, prompts)
        reply["panel"] = await self._idle_panel(session, command, prompts)
        # What could not be taken over stays in the box.
        unchanged = failed or text == story or (session.generating and command.type != "select_branch")
        session.variant_selected = session.variant_selected or not unchanged
        self._generation.precount_tokens(session.document, session.cache_salt)
        return _to_json(reply if unchanged else {**reply, "story": text})

    async def generate(self, request: gr.Request, command_text: str) -> AsyncIterator[Update]:
        """Generate text. Yields the values of `outputs.OUTPUTS` until the generation ends.

        For a long story only changes are sent, which the page applies.
        """
        with ExitStack() as stack:
            try:
                command = parse_command(command_text)
                if self._is_story_missing(request, command):
                    yield OutputCache().update(result=_to_json({"lost": True, "n": command.number}))
                    return
                session = self._sessions.get(tab_key(request))
                name_story(session, command.fields, tab_key(request)[0], self._hosting.states)
                sampling = parse_controls(command.fields.take("settings", dict), session.document.sampling)
                if session.generating:
                    return
                session.drop_offer()
                apply_typed_edits(
                    session.document, command.fields, parse_story(command.fields, session.document.text)
                )
                if command.number <= session.stopped_through or command.fields.has("unwanted"):
                    yield await self._stopped_update(session, command)
                    return
                self._hosting.limiter.check(session.document.text, sampling)
                stack.enter_context(self._hosting.limiter.admit(user_id_of(request)))
            except (RequestError, StoryError) as error:
                if (found := self._sessions.get(tab_key(request))).generating is False:
                    self._record(found, GenerationState.failed(str(error)))
                yield OutputCache().update(
                    result=_to_json({"n": _command_number(command_text)}), **self._error_update(str(error))
                )
                return
            async with aclosing(self._generate(session, command, sampling)) as updates:
                async for update in updates:
                    yield update

    async def _generate(
        self, session: Session, command: Command, sampling: SamplingParams
    ) -> AsyncGenerator[Update, None]:
        session.document.sampling = sampling
        session.generating, session.stop_requested, session.variant_selected = True, False, False
        session.command_number, session.visible_end = command.number, None
        text_delta, outputs = TextDelta(session.document.text), OutputCache()
        last = GenerationState()
        try:
            first_panel = panel.panel(GenerationState().stats, self._generation.info)
            yield outputs.update(panel=first_panel, stop=gr.Button(interactive=True))
            async with aclosing(self._generation.generate(session, command, sampling.with_seed())) as states:
                async for last in states:
                    yield outputs.update(**self._progress_update(session, command, last, text_delta))
        except GenerationError as error:
            last = GenerationState.failed(str(error))
            yield outputs.update(**self._error_update(str(error)))
        finally:
            session.generating, session.requests = False, []
            self._record(session, last)
        text = session.document.text
        story, patch = (text, None) if session.variant_selected else text_delta.diff(text)
        reply: Reply = {"wrote": True, "patch": patch, **({} if patch else {"story": story})}
        reply |= finish_messages.end_reply(last, command, session.document)
        reply = await self._with_views(session, command, reply, _PromptOnce(self._generation, session))
        rest = None
        if self._generation.info is not None and self._source.ready:
            rest = panel.idle_panel(session.last_generation, text, await self._generation.load(), None)
        yield outputs.update(story=story, result=_to_json(reply), panel=rest)

    def _record(self, session: Session, state: GenerationState) -> None:
        """Keep the last generation for the panel."""
        stories = max(1, len(state.variants))
        session.last_generation = panel.GenerationSummary(
            state.stats, tuple(state.rates), stories, session.document.text
        )

    async def _idle_panel(self, session: Session, command: Command, prompts: _PromptOnce) -> str | None:
        """Return the panel for the editor's text.

        None while generating, before the model is ready, or for a long text until typing pauses.
        """
        document = session.document
        is_long = len(document.text) >= DELTA_MIN_CHARACTERS and command.type not in _IDLE_COMMANDS
        if session.generating or is_long or self._generation.info is None or not self._source.ready:
            return None
        used = None
        if (
            session.last_generation is None or session.last_generation.text != document.text
        ):  # else the panel knows it
            with suppress(RequestError):
                prompt = await prompts.build()
                used = None if prompt is None else prompt.tokens
        return panel.idle_panel(
            session.last_generation, document.text, await self._generation.recent_info(), used
        )

    async def _stopped_update(self, session: Session, command: Command) -> Update:
        """Return the update for a command that was stopped before it arrived."""
        stats = RequestStats(phase="done", finish_reason="aborted")
        prompts = _PromptOnce(self._generation, session)
        reply = await self._with_views(session, command, {"wrote": True, "patch": None}, prompts)
        return OutputCache().update(panel=panel.panel(stats, self._generation.info), result=_to_json(reply))

    def _progress_update(
        self, session: Session, command: Command, state: GenerationState, text_delta: TextDelta
    ) -> dict[str, str | None]:
        panel_html = panel.panel(state.stats, self._generation.info, state.rates, max(1, len(state.variants)))
        if state.stats.error is not None and state.stats.finish_reason != "model_changed":
            _warn(state.stats.error)  # of a changed model the reply tells at the end
        variants = views.variants(state.variants, state.stats.finish_reason is None, command.number)
        story, patch = text_delta.diff(session.document.text)
        suffix = {} if state.suffix_units is None else {"behind": state.suffix_units}
        payload = {**(patch or {}), **suffix}
        delta = (
            views.json_payload({**payload, "n": command.number}) if payload and not state.variants else None
        )
        seed = None if state.stats.seed is None else str(state.stats.seed)
        return {"story": story, "panel": panel_html, "last_seed": seed, "variants": variants, "delta": delta}

    def _error_update(self, message: str) -> dict[str, str | None]:
        _warn(message)
        return {"panel": panel.panel(GenerationState.failed(message).stats, self._generation.info)}

    def _is_story_missing(self, request: gr.Request, command: Command) -> bool:
        """Return whether the page must send its story again, because the server no longer has it."""
        return command.story_known and command.type != "restore" and not self._sessions.has(tab_key(request))

    async def _with_views(
        self, session: Session, command: Command, reply: Reply, prompts: _PromptOnce
    ) -> Reply:
        """Return the reply with the state that the page shows."""
        document = session.document
        view: Reply = {"undo": document.can_undo, "redo": document.can_redo, "title": document.title}
        view["author"] = document.author
        view["retry"] = document.can_retry
        view["versions"] = _versions(document)
        view["branches"] = sorted(document.tree.branches)
        view["modelChanges"] = self._models.changes
        if not session.generating:
            view["marks"] = highlights.HIGHLIGHTS[command.highlight](document)
        html: dict[str, str] = {}
        if command.tab == "branches":
            html["jet-tree"] = views.branches(document.outline())
        elif command.tab == "guidance":
            html["jet-context"] = await _context_view(prompts)
            known = self._generation.info is not None and self._source.ready
            info = await self._generation.recent_info() if known else None
            html |= heeds.marks(info, self._hosting.is_private)
        elif command.tab == "engine":
            html["jet-request-history"] = views.history(session.request_log)
        # Fields that the reply draws first hold places of what is drawn then.
        return {**view, **reply, "n": command.number, "html": {**reply.get("html", {}), **html}}


class _PromptOnce:
    """The prompt for the text of one command. It is built at most once, even if several views show it."""

    def __init__(self, generation: GenerationService, session: Session) -> None:
        self._generation = generation
        self._session = session
        self._outcome: Prompt | RequestError | None = None
        self._built = False

    async def build(self) -> Prompt | None:
        """Return the prompt, or None before the model is loaded. Raises RequestError if it does not fit."""
        if not self._built:
            try:
                self._outcome = await self._generation.build_prompt(
                    self._session.document, self._session.cache_salt
                )
            except RequestError as error:
                self._outcome = error
            self._built = True
        if isinstance(self._outcome, RequestError):
            raise self._outcome
        return self._outcome


async def _context_view(prompts: _PromptOnce) -> str:
    try:
        return views.context_view(await prompts.build())
    except RequestError as error:
        return views.context_view(None, str(error))


async def _execute(
    commands: Mapping[str, CommandHandler], session: Session, story: str, command: Command
) -> Reply:
    if command.type not in commands:
        raise StoryError(
            f"The page asked for {command.type[:40]!r}, which is not known here: please reload it."
        )
    if session.generating and command.type not in ALLOWED_WHILE_GENERATING:
        raise StoryError("The model is still writing: stop it first.")
    before = command.fields.take_text("before") if command.fields.has("before") else story
    if not session.generating and command.type != "restore":
        apply_typed_edits(session.document, command.fields, before)
    return await commands[command.type](session, command.fields)


def tab_key(request: gr.Request) -> TabKey:
    """Return the key of a tab: its account and its session.

    Browsers choose the session names, so the account keeps users apart.
    """
    return user_id_of(request) if getattr(request, "username", None) else "", request.session_hash


def _versions(document: Document) -> dict[str, int | None] | None:
    """Return which version of a continuation the story is; None if there is only one version.

    `at` is the version's position, from 1; `of` is the number of versions. `previous` and `next` are the
    branches of the neighbors; None at either end.
    """
    found = versions(document.tree) if len(document.tree.branches) > 1 else None
    if found is None:
        return None
    before, after = found.branches[: found.at], found.branches[found.at + 1 :]
    return {
        "at": found.at + 1,
        "of": len(found.branches),
        "previous": before[-1] if before else None,
        "next": after[0] if after else None,
    }


def _command_number(command_text: str) -> int:
    try:
        return parse_command(command_text).number
    except StoryError:
        return 0


def _visible_end(command: Command) -> int | None:
    with suppress(StoryError):
        return command.fields.take("seen", int) if command.fields.has("seen") else None
    return None


def _to_json(reply: Reply) -> str:
    return json.dumps(reply, ensure_ascii=False)


def _warn(message: str) -> None:
    """Show a warning, since on a phone the panel is below the fold."""
    gr.Warning(html.escape(message), title="That did not work", duration=6)
