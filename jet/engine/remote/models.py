"""Ask a server for its models, their context and the address that it redirects to."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import anyio
import httpx

from jet.engine.remote.protocol import (
    ROUTER,
    ProtocolError,
    ServedModel,
    read_model_info,
    read_models,
    read_properties,
)
from jet.engine.remote.responses import RemoteError, error_from_status, next_address
from jet.engine.remote.transport import Server, unreachable

MOST_REDIRECTS = 5
CIRCLES = "The engine’s server sends this page in circles: give the address that it means."


async def ask_models(
    server: Server, client: httpx.AsyncClient, wanted: str | None, patience_s: float
) -> ServedModel:
    """Return the model named `wanted`; for None, the server's first model.

    If the server redirects to another address, `client.base_url` is set to this address. `patience_s`: the
    timeout of each question in seconds. Raises RemoteError if the server cannot be used.
    """
    try:
        with anyio.fail_after(2 * patience_s):
            answer = await _get(client, "models")
    except (httpx.HTTPError, TimeoutError) as error:
        raise RemoteError(f"{unreachable(server, error)} Is it running, and is this its address?") from None
    if answer.status_code != 200:
        raise error_from_status(answer.status_code, answer.text, through=server.through)
    there = answer.request.url.copy_with(query=None)
    if there.path.rstrip("/").endswith("/models"):
        client.base_url = there.copy_with(path=there.path.rstrip("/").removesuffix("models"))
    try:
        model = read_models(answer.text, wanted)
    except ProtocolError as error:
        raise RemoteError(f"The engine’s server cannot be used: {error}.") from None
    if model.context:
        return model
    context, kind = await _ask_further(client, patience_s, model.server == ROUTER)
    return replace(model, context=context, server=kind or model.server)


async def _get(client: httpx.AsyncClient, path: str) -> httpx.Response:
    """Send a GET request, following redirects that `next_address` allows."""
    answer = await client.get(path)
    for _ in range(MOST_REDIRECTS):
        if (there := next_address(answer)) is None:
            return answer
        answer = await client.get(there)
    raise RemoteError(CIRCLES)


async def _ask_further(client: httpx.AsyncClient, patience_s: float, routed: bool) -> tuple[int | None, str]:
    """Ask a server for its context in tokens and its kind, if its list of models lacks the context.

    llama.cpp answers `/props`. With `routed`, the server is a router, which passes `/get_model_info` on to an
    engine. Returns None and "" if unknown.
    """
    root = client.base_url
    if root.path.endswith("/v1/"):
        root = root.copy_with(path=root.path.removesuffix("v1/"))
    with suppress(httpx.HTTPError, TimeoutError), anyio.fail_after(patience_s):
        answer = await client.get(root.join("get_model_info" if routed else "props"))
        if answer.status_code == 200:
            return (read_model_info if routed else read_properties)(answer.text)
    return None, ""
