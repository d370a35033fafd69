"""The router in front of several engines: SGLang's, if it is installed, with its cache-aware policy.

A request goes to the engine that has read the longest part of its prompt, unless that one is much busier than
another; https://docs.sglang.io/advanced_features/sgl_model_gateway.html describes it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

PACKAGE = "sglang-router"
_STARTUP_S = 1_800  # for an engine to load its model


def is_installed() -> bool:
    """Return whether the router can be run here."""
    return importlib.util.find_spec("sglang_router") is not None


def router_command(
    engines: Sequence[str], host: str, port: int, origins: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the command of a router on `host` and `port` over engines by URL.

    `origins`: web origins that may call it. Without any only the router's own may; its default is all.

    An engine is watched once a second and left out after two failed checks; what reaches it before is sent to
    another by retries, which take longer than that. The router's circuit breaker is off: it counts answers
    like 400 as failures of the engine, so that a few bad requests would shut it out.
    """
    return (
        *(sys.executable, "-m", "sglang_router.launch_router"),
        *("--host", host, "--port", str(port)),
        *("--policy", "cache_aware", "--balance-abs-threshold", "16", "--balance-rel-threshold", "1.1"),
        *("--health-check-interval-secs", "1", "--health-check-timeout-secs", "5"),
        *("--health-failure-threshold", "2", "--health-success-threshold", "1"),
        *("--retry-max-retries", "10", "--retry-initial-backoff-ms", "50", "--retry-max-backoff-ms", "1000"),
        "--disable-circuit-breaker",
        *("--worker-startup-timeout-secs", str(_STARTUP_S), "--worker-startup-check-interval", "1"),
        *("--shutdown-grace-period-secs", "5"),  # it ends after the engines, so no stream is left
        *("--log-level", "error"),
        *("--cors-allowed-origins", *(origins or (f"http://localhost:{port}",))),
        *("--worker-urls", *engines),
    )
