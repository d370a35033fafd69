"""What has been written here, in numbers for Prometheus. No text, no names, no addresses."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from jet.api import RequestStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_RATES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_FINISH_REASONS = ("stop", "stop_string", "length", "context", "aborted", "deadline", "error")


class Metrics:
    """The meters of one page, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "jet_requests", "Requests that have ended, by how", ["reason"], registry=self._registry
        )
        self._rejected = Counter(
            "jet_refused", "Calls that were turned away", ["status"], registry=self._registry
        )
        self._generation_tokens = Counter("jet_tokens", "Tokens written", registry=self._registry)
        self._prompt_tokens = Counter("jet_prompt_tokens", "Tokens read", registry=self._registry)
        self._time_to_first_token = Histogram(
            "jet_first_token_seconds", "To the first token", buckets=_SECONDS, registry=self._registry
        )
        self._tokens_per_second = Histogram(
            "jet_tokens_per_second", "Mean speed of a request", buckets=_RATES, registry=self._registry
        )
        for reason in _FINISH_REASONS:
            self._requests.labels(reason)

    def add_gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read when the metrics are."""
        Gauge(name, description, registry=self._registry).set_function(read)

    def record_request(self, stats: RequestStats) -> None:
        """A request has ended; without a finish reason, because its reader left."""
        self._requests.labels(stats.finish_reason or "aborted").inc()
        self._generation_tokens.inc(stats.tokens)
        self._prompt_tokens.inc(stats.prompt_tokens)
        if stats.time_to_first_token_s is not None:
            self._time_to_first_token.observe(stats.time_to_first_token_s)
        if stats.mean_tokens_per_second is not None:
            self._tokens_per_second.observe(stats.mean_tokens_per_second)

    def record_rejection(self, status: int) -> None:
        """A call was turned away before it reached the page."""
        self._rejected.labels(str(status)).inc()

    def render(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
