"""Test the endpoints as MCP tools, with an MCP client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from importlib import metadata
from typing import Any, TypeVar

import pytest

from jet.api import SamplingParams
from jet.ui.api import PRESET_FIELDS
from jet.ui.page import mcp_available
from jet.ui.presets import PRESETS
from tests.ui.served import Served, wait_until

mcp = pytest.importorskip("mcp", reason="needs mcp")
Found = TypeVar("Found")


def asking(url: str, ask: Callable[[Any], Awaitable[Found]]) -> Found:
    """Run `ask` in the session of an MCP client; return its result."""
    from mcp.client.streamable_http import streamable_http_client

    async def session() -> Found:
        async with (
            streamable_http_client(f"{url}gradio_api/mcp/") as (read, write, _),
            mcp.ClientSession(read, write) as client,
        ):
            await client.initialize()
            return await ask(client)

    return asyncio.run(session())


def test_the_tools_are_the_named_endpoints_and_say_what_they_take(served: Served) -> None:
    async def tools(client: Any) -> list[Any]:
        return (await client.list_tools()).tools

    found = {tool.name: tool for tool in asking(served.url, tools)}
    assert set(found) == {"generate", "stats", "presets"}
    assert all(tool.description for tool in found.values())
    taken = found["generate"].inputSchema
    assert taken["required"] == ["prompt"]
    assert {"prompt", "max_new_tokens", "temperature", "seed"} <= set(taken["properties"])
    for name, described in taken["properties"].items():
        assert len(described["description"]) > 20, name
    assert taken["properties"]["temperature"]["default"] == SamplingParams().temperature


def test_a_tool_writes_a_story(served: Served) -> None:
    served.engine.tokens_per_second = 2000

    async def write(client: Any) -> Any:
        return await client.call_tool("generate", {"prompt": "A", "max_new_tokens": 3, "seed": 7})

    answer = asking(served.url, write)
    assert not answer.isError
    assert "A A0 A1 A2" in answer.content[0].text and "'seed': 7" in answer.content[0].text
    wait_until(lambda: not served.engine.live)


def test_a_tool_refuses_in_words(served: Served) -> None:
    async def write(client: Any) -> Any:
        return await client.call_tool("generate", {"prompt": "A", "temperature": -1})

    answer = asking(served.url, write)
    assert answer.isError and "temperature must be from 0 to 5, not -1" in answer.content[0].text


def test_a_tool_tells_the_presets(served: Served) -> None:
    async def ask(client: Any) -> Any:
        return await client.call_tool("presets", {})

    text = asking(served.url, ask).content[0].text
    assert all(f"'{name}'" in text or f'"{name}"' in text for name in PRESETS), text
    assert json.dumps(PRESETS["wild"].temperature) in text


def test_every_preset_is_what_generate_takes() -> None:
    wild = {name: getattr(PRESETS["wild"], name) for name in PRESET_FIELDS}
    assert SamplingParams(**wild) == PRESETS["wild"]


@pytest.mark.parametrize(("version", "spoken"), [(None, False), ("1.30.0", True), ("2.3.0", False)])
def test_only_the_version_that_gradio_knows_is_spoken(
    monkeypatch: pytest.MonkeyPatch, version: str | None, spoken: bool
) -> None:
    def installed(name: str) -> str:
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", installed)
    assert mcp_available() is spoken
