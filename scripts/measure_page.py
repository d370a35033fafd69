"""Measure the page in Chromium: its bytes, its start, typing in a megabyte of text, frames while it writes.

python -m scripts.measure_page            all of it; exits with 1 if something is over its bound
python -m scripts.measure_page --weight   only the bytes, which need no quiet machine

The page runs in this process over an engine without a model. An empty Gradio page is measured in the same
run. Needs Playwright and a Chromium, as the browser tests do; JET_CHROMIUM names it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from jet.ui.page import build, launch
from scripts.load.engine import PacedEngine
from scripts.page import timing
from scripts.page.weight import MOST_BYTES, Load, empty_page, weigh

READY = ".jet-model-info b"
SPEED, TOKENS = 500.0, 1500  # of the engine: tokens a second, and of one continuation


@contextmanager
def served() -> Iterator[str]:
    """Serve the page until the block is left; yield its address."""
    demo = build(PacedEngine(SPEED))
    url = launch(demo)
    try:
        yield url
    finally:
        demo.close(verbose=False)


def print_weights(bare: Load, ours: Load, most: int) -> None:
    """Print the total bytes of both pages, and the `most` paths that add most to the empty page."""
    for name, load in (("empty page of Gradio's", bare), ("page", ours)):
        print(f"{name}: {load.total:,} bytes in {len(load.sizes)} requests")
    print(f"above it: {ours.total - bare.total:,} of at most {MOST_BYTES:,} bytes, of which")
    beyond = {path: size - bare.sizes.get(path, 0) for path, size in ours.sizes.items()}
    for path, size in sorted(beyond.items(), key=lambda one: -one[1])[:most]:
        print(f"  {size:8,}  {path}")


def print_timings(browser: Browser, url: str, bare: str) -> bool:
    """Print the durations. Returns True if all are within their bounds."""
    holds = True
    for what, found, bound in (
        ("empty page of Gradio's, usable after", timing.usable(browser, bare, "textarea"), None),
        ("usable after", timing.usable(browser, url, "#jet-continue:enabled"), timing.USABLE_S),
        ("keystroke to paint in a megabyte", timing.keystroke(browser, url), timing.KEYSTROKE_S),
        ("frame while it writes", timing.frame(browser, url, TOKENS), timing.FRAME_S),
    ):
        over = bound is not None and found > bound
        holds = holds and not over
        limit = "" if bound is None else f", at most {bound * 1000:.0f}{'  OVER' if over else ''}"
        print(f"{what}: {found * 1000:.0f} ms{limit}")
    return holds


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the results. Returns 1 if a bound is not met, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--weight", action="store_true", help="measure no time")
    parser.add_argument("--most", type=int, default=12, help="lines of the table of weights")
    options = parser.parse_args(arguments)
    with sync_playwright() as playwright, served() as url, empty_page() as bare_url:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("JET_CHROMIUM"), args=["--no-sandbox"]
        )
        bare, ours = weigh(browser, bare_url, "textarea"), weigh(browser, url, READY)
        print_weights(bare, ours, options.most)
        holds = ours.total - bare.total <= MOST_BYTES
        if not options.weight:
            holds = print_timings(browser, url, bare_url) and holds
        browser.close()
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
