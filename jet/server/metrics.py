"""Metrics for Prometheus: requests, tokens and latency. No metric contains texts, user names or addresses.

A metric that vLLM has too is named as in vLLM. The names in `OLD_NAMES` are exported as well for one release.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from jet.api import RequestStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_RATES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_FINISH_REASONS = (
    *("stop", "stop_string", "length", "context", "aborted", "deadline", "error", "model_changed"),
)


# Names that version 0.1 gave to these metrics.
OLD_NAMES = {
    "jet_generation_tokens": "jet_tokens",
    "jet_num_requests_admitted": "jet_stories_writing",
    "jet_num_requests_running": "jet_engine_active",
    "jet_num_requests_waiting": "jet_engine_queued",
    "jet_requests_rejected": "jet_refused",
    "jet_time_to_first_token_seconds": "jet_first_token_seconds",
}


class Metrics:
    """The metrics of one page, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter("jet_requests", "Finished requests", ["reason"], registry=self._registry)
        self._rejected = Counter(
            "jet_requests_rejected", "Calls rejected before the page", ["status"], registry=self._registry
        )
        self._generation_tokens = Counter(
            "jet_generation_tokens", "Generated tokens", registry=self._registry
        )
        self._prompt_tokens = Counter("jet_prompt_tokens", "Prompt tokens", registry=self._registry)
        self._time_to_first_token = Histogram(
            "jet_time_to_first_token_seconds",
            "Time to first token",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._tokens_per_second = Histogram(
            "jet_tokens_per_second", "Mean decode speed of a request", buckets=_RATES, registry=self._registry
        )
        self._old_names = CollectorRegistry()
        self._old_names.register(_OldNames(self._registry))
        for reason in _FINISH_REASONS:
            self._requests.labels(reason)

    def add_gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Add a gauge whose value `read` returns whenever the metrics are rendered."""
        Gauge(name, description, registry=self._registry).set_function(read)

    def record_request(self, stats: RequestStats) -> None:
        """Count a request that has ended. Without a finish reason it counts as aborted by its client."""
        self._requests.labels(stats.finish_reason or "aborted").inc()
        self._generation_tokens.inc(stats.tokens)
        self._prompt_tokens.inc(stats.prompt_tokens)
        if stats.time_to_first_token_s is not None:
            self._time_to_first_token.observe(stats.time_to_first_token_s)
        if stats.mean_tokens_per_second is not None:
            self._tokens_per_second.observe(stats.mean_tokens_per_second)

    def record_rejection(self, status: int) -> None:
        """Count a call that was rejected before it reached the page."""
        self._rejected.labels(str(status)).inc()

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format, the renamed ones under both names."""
        return generate_latest(self._registry) + generate_latest(self._old_names)


class _OldNames(Collector):
    """Collects the renamed metrics of a registry once more, under their old names."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def describe(self) -> Iterable[Metric]:
        """Return an empty tuple, since the names are known only after the gauges have been added."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield each renamed metric again, under its old name."""
        for metric in self._registry.collect():
            old = OLD_NAMES.get(metric.name)
            if old is None:
                continue
            copy = Metric(old, f"Old name of {metric.name}", metric.type)
            for sample in metric.samples:
                copy.samples.append(sample._replace(name=old + sample.name.removeprefix(metric.name)))
            yield copy
