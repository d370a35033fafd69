"""SGLang's router in front of several engines, with its cache-aware policy.

A request goes to the engine with the longest cached prefix of its prompt, unless that engine is much busier
than another; see https://docs.sglang.io/advanced_features/sgl_model_gateway.html.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

PACKAGE = "sglang-router"
_STARTUP_S = 1_800  # for an engine to load its model


def is_installed() -> bool:
    """Return whether the router's package is installed."""
    return importlib.util.find_spec("sglang_router") is not None


def router_command(
    engines: Sequence[str], host: str, port: int, origins: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the command that runs a router on `host` and `port` in front of engines with these URLs.

    `origins`: web origins that may call the router; if empty, only the router's own origin may.

    The router checks engines once a second and excludes one after two failed checks. It retries a failed
    request for longer than that, so the request reaches another engine. The router's circuit breaker is off:
    it counts answers such as 400 as failures of the engine, so a few invalid requests would exclude the
    engine.
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
