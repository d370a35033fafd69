"""`prefill`: measure the prefill of a prompt through the engine.

The time to the first token is measured from submitting the request until the engine has the token. It
includes all prefill chunks and sampling the token. The rate is the prompt's tokens divided by this time. The
prompt is given as ids, so tokenizing is not included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from jet.api import RequestStats
from jet.bench import networks
from jet.bench.bandwidth import measure_bandwidth
from jet.bench.baselines import Baseline, prefill_baselines
from jet.bench.bytes_moved import prefill_bytes_moved
from jet.bench.options import Options
from jet.bench.requests import run_request
from jet.bench.result import CaseResult, Metric
from jet.bench.samples import Case, run_interleaved


def measure(options: Options) -> CaseResult:
    """Load the network, measure the prefill of its prompt repeatedly, and compute the utilization."""
    options = replace(options, tokens=1)
    network = networks.load(options)
    bytes_moved = prefill_bytes_moved(network.model, options.context)
    bandwidth = measure_bandwidth(bytes_moved, network.device, network.threads)
    baselines = prefill_baselines(network, options) if options.baseline else []
    stats: list[RequestStats] = []
    with networks.serve(network) as engine:

        def prefill() -> Mapping[str, float]:
            stats.append(run_request(engine, network.prompt, options.sampling))
            return {"engine": first_token(stats[-1])}

        cases: list[Case] = [prefill, *(partial(_prefill_baseline, baseline) for baseline in baselines)]
        samples_by_name = run_interleaved(cases, options.warm_up, options.runs)
    metrics, ratios = {}, {}
    for name, label in {"engine": "through the engine", **{o.name: o.label for o in baselines}}.items():
        rate = samples_by_name[name].map(lambda seconds: options.context / seconds)
        metrics[name] = Metric(label, "tok/s", rate)
        metrics[f"{name}.first_token"] = Metric(f"{label}: time to first token", "s", samples_by_name[name])
        if name != "engine":
            # Of speeds, as in `decode`: above 1 where the engine is faster.
            ratios[f"engine/{name}"] = Metric(
                f"engine / {label}", "", samples_by_name[name].ratio_to(samples_by_name["engine"])
            )
    utilization = {"engine": bandwidth.utilization(samples_by_name["engine"].median)}
    return CaseResult(options, network.info, metrics, bandwidth, utilization, ratios, stats[-1])


def first_token(stats: RequestStats) -> float:
    """Return the seconds to a request's first token, for requests that have one."""
    assert stats.time_to_first_token_s is not None  # a token was written
    return stats.time_to_first_token_s


def _prefill_baseline(baseline: Baseline) -> Mapping[str, float]:
    return {baseline.name: baseline.run().first_token_s}
