"""Test how much more the page weighs than an empty one of Gradio's, measured in the same run."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from scripts.page.weight import MOST_BYTES, empty_page, weigh
from tests.ui.served import Served

pytestmark = [pytest.mark.browser, pytest.mark.thorough]

MOST_REQUESTS = 10  # more than an empty page


def test_the_page_weighs_little_more_than_an_empty_one(browser: Browser, served: Served) -> None:
    with empty_page() as url:
        bare = weigh(browser, url, "textarea")
    ours = weigh(browser, served.url, ".jet-model-info b")
    own = {path: size for path, size in ours.sizes.items() if path not in bare.sizes}
    print(f"an empty page: {bare.total:,} bytes, {len(bare.sizes)} requests")
    print(f"ours: {ours.total:,} bytes, {len(ours.sizes)} requests")
    assert ours.total - bare.total <= MOST_BYTES, own
    assert len(ours.sizes) - len(bare.sizes) <= MOST_REQUESTS, own
