"""Load one page with many visitors: measure durations and errors, and the effect of a flood.

python -m scripts.load_page                        200 tabs for 60 seconds over an engine without a model
python -m scripts.load_page --tabs 20 --seconds 5  the short form that the tests run

The script starts a page on this machine and visits it. The last line of output is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import random
import statistics
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import httpx
import psutil

from jet.server.hosting import Hosting
from jet.server.limits import PUBLIC, Limits
from jet.ui.page import build, launch
from scripts.load.engine import PacedEngine
from scripts.load.visitor import Findings, Page, Refusal, Visitor, stay

FLOOD = 400  # calls at once
_THINK_S = (3.0, 12.0)


def serve(connection: Connection, limits: Limits) -> None:
    """Serve a page in this process; send its URL to the parent, and end when the parent sends a message."""
    hosting = Hosting(limits)
    demo = build(PacedEngine(), hosting)
    url = launch(demo, hosting=hosting)
    gc.freeze()  # as app.py does
    connection.send(url)
    connection.recv()
    demo.close(verbose=False)
    gc.unfreeze()


async def session(url: str, tabs: int, seconds: float, findings: Findings) -> None:
    """Run `tabs` tabs; they arrive one after the other in the first fifth of `seconds`."""
    page = Page(httpx.get(f"{url}config").json())

    async def one(number: int) -> None:
        await asyncio.sleep(seconds / 5 * number / tabs)
        # Every tab has its own connections, as browsers do; a shared pool would be the bottleneck.
        limits = httpx.Limits(keepalive_expiry=300)  # which is how long Chromium keeps an idle one
        async with httpx.AsyncClient(base_url=url, timeout=60, verify=False, limits=limits) as client:
            visitor = Visitor(client, page, findings)
            await stay(visitor, seconds * 0.8, lambda: random.uniform(*_THINK_S) * seconds / 60, findings)

    lag = asyncio.create_task(_lag(findings))
    await asyncio.gather(*(one(number) for number in range(tabs)))
    lag.cancel()


async def _lag(findings: Findings) -> None:
    """Measure the delay of the visitors' own event loop, which is not the page's fault."""
    while True:
        started = time.monotonic()
        await asyncio.sleep(0.1)
        findings.took("(lag)", time.monotonic() - started - 0.1)


async def flood(url: str) -> dict[str, Any]:
    """Flood the page from one address; return the answers by status, and whether the story was kept."""
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=50)) as client:
        page = Page((await client.get("config")).json())
        visitor = Visitor(client, page, Findings())
        await visitor.act("sync")
        before = visitor.story

        async def call() -> int:
            try:
                await visitor.act("sync")
            except Refusal as refusal:
                assert "Your text is still here" in str(refusal)
                return refusal.status
            return 200

        statuses = await asyncio.gather(*(call() for _ in range(FLOOD)))
        await asyncio.sleep(2)
        await visitor.act("sync")
    counted = {str(status): statuses.count(status) for status in sorted(set(statuses))}
    return {"answers": counted, "story_kept": visitor.story == before}


def run(tabs: int, seconds: float) -> dict[str, Any]:
    """Serve a page, let visitors use it, and measure."""
    findings = Findings()
    url, process, connection = _start(Limits())
    memory = psutil.Process(process.pid)
    before = memory.memory_info().rss
    started = time.monotonic()
    cpu = memory.cpu_times().user + memory.cpu_times().system
    asyncio.run(session(url, tabs, seconds, findings))
    elapsed = time.monotonic() - started
    used = memory.cpu_times().user + memory.cpu_times().system - cpu
    grown = memory.memory_info().rss - before
    _end(process, connection)
    url, process, connection = _start(PUBLIC)
    flooded = asyncio.run(flood(url))
    _end(process, connection)
    actions = (found for what, found in findings.seconds.items() if what not in ("open", "(lag)"))
    every = [one for found in actions for one in found]
    return {
        "tabs": tabs,
        "actions": len(every),
        "p95_s": round(quantile(every, 0.95), 3),
        "by_action": {
            what: {
                "count": len(found),
                "median_s": round(statistics.median(found), 3),
                "p95_s": round(quantile(found, 0.95), 3),
            }
            for what, found in sorted(findings.seconds.items())
        },
        "errors": findings.errors[:10],
        "refused": findings.refused[:10],
        "memory_growth_mb_per_tab": round(grown / 1e6 / tabs, 2),
        "server_cpu_share": round(used / elapsed, 2),
        "visitors_cpu_share": round(time.process_time() / elapsed, 2),
        "flood": flooded,
    }


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of all values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _start(limits: Limits) -> tuple[str, BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, limits), daemon=True)
    process.start()
    return ours.recv(), process, ours


def _end(process: BaseProcess, connection: Connection) -> None:
    connection.send(None)
    process.join(20)
    if process.is_alive():
        process.kill()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the results. Returns 1 if a requirement is not met, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tabs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args(arguments)
    found = run(options.tabs, options.seconds)
    for what, figures in found["by_action"].items():
        print(
            f"{what:>9}: {figures['count']:5} times, median {figures['median_s']} s, p95 {figures['p95_s']} s"
        )
    print(json.dumps(found))
    holds = (
        found["p95_s"] < 1 and not found["errors"] and not found["refused"] and found["flood"]["story_kept"]
    )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
