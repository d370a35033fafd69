"""Set up every test: no hub, no telemetry, no GPU tests without a GPU, and a path of Chromium."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path

import pytest

# Read when the libraries are imported, so set before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Stored states and quantized checkpoints of tests are not the user's.
os.environ["JET_CACHE_DIR"] = tempfile.mkdtemp(prefix="jet-tests-")
# Small tensors: a second thread only waits, and where processors are shared it waits long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from tests.chromium import find_chromium
from tests.suite import split_thorough

ROOT = Path(__file__).resolve().parents[1]
# Browsers, servers and pages that write in real time wait for a busy machine: a test of theirs that fails
# runs once more, and the summary names it. All other tests have one chance.
SERVERS = {ROOT / "tests" / "server", ROOT / "tests" / "ui"}

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels then run on the processor, slowly
    if find_spec("triton"):
        from tests.interpreter import quicken

        quicken()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import all tests without garbage collection, and exclude what they imported from later collections.

    These are 800,000 objects, and looking through them takes half a second each time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


def pytest_unconfigure() -> None:
    """Remove the cache of the tests, and unfreeze objects that Triton would otherwise report as leaked."""
    gc.unfreeze()
    shutil.rmtree(os.environ["JET_CACHE_DIR"], ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select and mark the collected tests.

    JET_THOROUGH_PART selects a part of the thorough tests. GPU tests are skipped without a GPU. Tests of
    browsers and servers run once more if they fail.
    """
    if part := os.environ.get("JET_THOROUGH_PART"):
        items[:], left = split_thorough(items, part)
        config.hook.pytest_deselected(items=left)
    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    if gpu_tests and not torch.cuda.is_available():
        for item in gpu_tests:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    for item in items:
        if item.get_closest_marker("browser") or SERVERS.intersection(item.path.parents):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the path of a Chromium, for Playwright's `executable_path`.

    Without a Chromium the test is skipped; if JET_REQUIRE_BROWSER is set, it fails instead.
    """
    path = find_chromium()
    if path is None:
        message = "no Chromium here: install it or set JET_CHROMIUM"
        if os.environ.get("JET_REQUIRE_BROWSER"):
            pytest.fail(message)
        pytest.skip(message)
    return path
