"""A tab of the page as the server sees it: the requests of the browser, in their order."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import httpx


class Refusal(Exception):
    """Raised when the server refuses the visitor; has the status and the message."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {said[:200]}")
        self.status = status


@dataclass
class Findings:
    """Measurements of all visitors.

    Attributes:
        seconds: durations, by action.
        refused: messages of refusals.
        errors: unexpected answers and failures.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def took(self, what: str, seconds: float) -> None:
        """Record the duration of an action, in seconds."""
        self.seconds.setdefault(what, []).append(seconds)


class Page:
    """The configuration of a page, read once for all visitors."""

    def __init__(self, config: dict[str, Any]) -> None:
        functions = {one["api_name"]: one for one in config["dependencies"] if one.get("backend_fn")}
        self.ids = {name: one["id"] for name, one in functions.items()}


class Visitor:
    """One simulated tab."""

    def __init__(self, client: httpx.AsyncClient, page: Page, findings: Findings) -> None:
        self.story = "Once upon a time"
        self.session = f"load{random.getrandbits(48):x}"
        self._client = client
        self._page = page
        self._findings = findings
        self._number = 0
        self._known = False

    async def arrive(self) -> None:
        """Open the page again: the document with its configuration, the theme and the greeting.

        Scripts are left out: a browser has them in its cache since the first visit.
        """
        started = time.monotonic()
        await self._get("")
        await self._get("theme.css")
        async with aclosing(self._events("load", [])) as events:
            async for _ in events:
                pass
        self._findings.took("open", time.monotonic() - started)

    async def heartbeat(self) -> None:
        """Keep a tab's heartbeat stream open until cancelled."""
        async with self._client.stream("GET", f"gradio_api/heartbeat/{self.session}") as answer:
            async for _ in answer.aiter_bytes():
                pass

    async def act(self, do: str, **more: object) -> dict[str, Any]:
        """Run a command that needs no model; return its reply."""
        started = time.monotonic()
        body = self._body("run_command", [self._order(do, story=self.story, **more)])
        answer = await self._client.post("gradio_api/run/predict", json=body)
        if answer.status_code != 200:
            raise Refusal(answer.status_code, answer.text)
        reply = self._read(answer.json()["data"][0])
        self.story = reply.get("story", self.story)
        self._findings.took(do, time.monotonic() - started)
        return reply

    async def write(self, tokens: int, stop_after: int | None = None) -> bool:
        """Continue the story; return False if nothing was generated.

        Args:
            tokens: maximum of tokens to generate.
            stop_after: number of updates after which to stop; None never stops.
        """
        data = [self._order("continue", story=self.story, settings={"max_new_tokens": tokens})]
        started, updates, begun, reply = time.monotonic(), 0, False, ""
        async with aclosing(self._events("generate_on_page", data)) as events:
            async for outputs in events:
                updates += 1
                if not begun:
                    begun = True
                    self._findings.took("continue", time.monotonic() - started)
                reply = outputs[-1] if isinstance(outputs[-1], str) else reply
                if updates == stop_after:
                    stopping = time.monotonic()
                    await self._client.post("gradio_api/run/predict", json=self._body("stop", []))
                    self._findings.took("stop", time.monotonic() - stopping)
        said = self._read(reply) if reply else {}
        return bool(said.get("wrote"))

    async def _events(self, name: str, data: list[Any]) -> AsyncGenerator[list[Any], None]:
        """Yield the outputs of a queued call as they arrive."""
        joined = await self._client.post("gradio_api/queue/join", json=self._body(name, data))
        if joined.status_code != 200:
            raise Refusal(joined.status_code, joined.text)
        event = joined.json()["event_id"]
        query = {"session_hash": self.session}
        async with self._client.stream("GET", "gradio_api/queue/data", params=query) as answer:
            if answer.status_code != 200:
                raise Refusal(answer.status_code, "")
            async for line in answer.aiter_lines():
                if not line.startswith("data:"):
                    continue
                message = json.loads(line[5:])
                if message.get("event_id") not in (None, event):
                    continue
                output = message.get("output") or {}
                if message["msg"] in ("process_generating", "process_completed"):
                    if message.get("success") is False or output.get("error"):
                        raise Refusal(500, str(output.get("error")))
                    yield output.get("data") or [None]
                if message["msg"] == "process_completed":
                    return
                if message["msg"] == "unexpected_error":
                    raise Refusal(500, str(message))

    def _read(self, reply: str) -> dict[str, Any]:
        said = json.loads(reply)
        if isinstance(said, dict):
            self._known = self._known or not said.get("lost")
            return said
        return {}

    def _order(self, do: str, **more: object) -> str:
        self._number += 1
        order = {"type": do, "n": self._number, "highlight": "plain", "tab": "", "known": self._known, **more}
        return json.dumps(order)

    def _body(self, name: str, data: list[Any]) -> dict[str, Any]:
        return {"data": data, "fn_index": self._page.ids[name], "session_hash": self.session}

    async def _get(self, path: str) -> None:
        answer = await self._client.get(path)
        if answer.status_code != 200:
            raise Refusal(answer.status_code, answer.text)


async def stay(visitor: Visitor, seconds: float, think: Callable[[], float], findings: Findings) -> None:
    """Act as a writer for `seconds` seconds: type, generate, sometimes stop, sometimes undo."""
    heartbeat = asyncio.create_task(visitor.heartbeat())
    try:
        await visitor.arrive()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(think())
            visitor.story += f" {random.randrange(1000)} and then."
            await visitor.act("sync")
            await asyncio.sleep(think() / 4)
            if not await visitor.write(60, stop_after=random.choice((None, None, 3))):
                findings.errors.append("a story was not written")
            await visitor.act("autosave")
            if random.random() < 0.2:
                await visitor.act("undo")
    except Refusal as refusal:
        findings.refused.append(str(refusal))
    except Exception as error:
        findings.errors.append(f"{type(error).__name__}: {error}")
    finally:
        heartbeat.cancel()
        await asyncio.gather(heartbeat, return_exceptions=True)
