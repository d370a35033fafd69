"""Build the page over an engine source, and launch it."""

from __future__ import annotations

import os
from importlib import metadata

import gradio as gr

from jet.engine.holder import EngineHandle
from jet.proxies import prepare_environment
from jet.server.binding import AddressError as AddressError
from jet.server.binding import explain, listen
from jet.server.connections import configure_server
from jet.server.held_port import serving_on
from jet.server.hosting import Hosting
from jet.server.openai import allow_origins
from jet.server.terminal import tolerant_output
from jet.ui import web
from jet.ui.actions import ALLOWED_WHILE_GENERATING
from jet.ui.api import add_api
from jet.ui.api_defaults import fill_in_defaults
from jet.ui.deltas import DELTA_MIN_CHARACTERS
from jet.ui.events import connect_events
from jet.ui.handlers import PageController
from jet.ui.inputs import NOT_IN_PRESETS
from jet.ui.layout import Page, build_layout
from jet.ui.models import make_switch
from jet.ui.theme import make_theme

MAX_THREADS = (
    256  # stories that may be written or wait in line at once; the engine decides who is served when
)


def build(source: EngineHandle, hosting: Hosting | None = None) -> gr.Blocks:
    """Build the page and its API. `source` may still be loading its model."""
    hosting = hosting or Hosting()
    hosting.add_engine_gauges(source)
    hosting.offer_api(source)
    demo = gr.Blocks(title="Jet Stories", analytics_enabled=False, fill_width=True)
    with demo:
        models = make_switch(source, hosting)
        page = build_layout(models is not None)
        connect_events(demo, page, PageController(source, hosting, models))
        add_api(source, hosting)
    fill_in_defaults(demo)
    demo.head = web.head()  # type: ignore[assignment]
    demo.js = web.loader(_settings(page))  # type: ignore[assignment]
    return demo


def launch(
    demo: gr.Blocks, host: str | None = None, port: int | None = None, hosting: Hosting | None = None
) -> str:
    """Open the page and return its address at once. The server runs in a thread until `demo.close()`.

    Args:
        demo: the page.
        host: a name or address; None takes the variable GRADIO_SERVER_NAME, or else this machine only.
        port: None takes the first free port from GRADIO_SERVER_PORT on, by default from 7860.
        hosting: limits, accounts and middleware; None for those of a private page.

    Raises AddressError.
    """
    if host and ":" in host:
        host = f"[{host.strip('[]')}]"  # how Gradio wants an IPv6 address
    name = host or os.environ.get("GRADIO_SERVER_NAME")
    listening = listen(name, port)
    prepare_environment(name)  # Gradio asks the page whether it is there
    hosting = hosting or Hosting()
    os.environ.setdefault("FORWARDED_ALLOW_IPS", "")  # who is to be believed, the guard decides
    try:
        with tolerant_output(), serving_on(listening):  # the library prints, too
            _, url, _ = demo.launch(
                server_name=host,
                server_port=listening[0].getsockname()[1],
                prevent_thread_lock=True,
                quiet=True,
                run_history=False,
                ssr_mode=False,
                show_error=True,
                max_threads=MAX_THREADS,
                auth=hosting.accounts,
                app_kwargs=hosting.app_kwargs(_is_local(name), [web.ROUTE]),
                footer_links=["api"],
                mcp_server=mcp_available(),
                theme=make_theme(),
                css=web.styles(),
                head=demo.head,
                js=demo.js,
            )
    except AddressError:
        raise
    except OSError as error:
        raise AddressError(explain(error, name, port)) from error
    # web/connection.js opens the heartbeat by which the server knows that a tab is open, and keeps it.
    demo.config["connect_heartbeat"] = False
    configure_server(demo.server)
    allow_origins(demo.server, hosting.api.origins)
    return url


def _is_local(host: str | None) -> bool:
    """Return whether a server that listens on `host` can be reached from this machine only."""
    return not host or host.strip("[]") in ("localhost", "::1") or host.startswith("127.")


def mcp_available() -> bool:
    """Return whether the endpoints are also offered as MCP tools, which needs the package `mcp` 1.x."""
    try:
        return metadata.version("mcp").startswith("1.")  # the one that Gradio knows
    except metadata.PackageNotFoundError:
        return False


def _settings(page: Page) -> dict[str, object]:
    """Return the settings that the script in the browser needs."""
    return {
        "whileGenerating": ALLOWED_WHILE_GENERATING,
        "deltaMinimum": DELTA_MIN_CHARACTERS,
        "controls": list(page.controls),
        "presetControls": [name for name in page.controls if name not in NOT_IN_PRESETS],
    }
