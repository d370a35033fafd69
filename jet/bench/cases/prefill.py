"""`prefill`: how fast a prompt is read, through the engine.

Time to the first token is from submitting the request until the engine has the token: reading the prompt in
the engine's pieces, and choosing one token. Tokens a second are those of the prompt over that time. The
prompt comes as ids, so tokenising is no part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from jet.api import RequestStats
from jet.bench import networks
from jet.bench.bandwidth import measure_ceiling
from jet.bench.baselines import Baseline, prefill_baselines
from jet.bench.bytes_moved import prefill_floor
from jet.bench.options import Options
from jet.bench.requests import write
from jet.bench.result import Figure, Report
from jet.bench.samples import Contender, alternate


def measure(options: Options) -> Report:
    """Load the network, have the prompt read again and again, and compare that with the floor."""
    options = replace(options, tokens=1)
    network = networks.load(options)
    floor = prefill_floor(network.model, options.context)
    ceiling = measure_ceiling(floor, network.device, network.threads)
    others = prefill_baselines(network, options) if options.baseline else []
    stats: list[RequestStats] = []
    with networks.serve(network) as engine:

        def read() -> Mapping[str, float]:
            stats.append(write(engine, network.prompt, options.sampling))
            return {"engine": first_token(stats[-1])}

        contenders: list[Contender] = [read, *(partial(_read_baseline, other) for other in others)]
        spreads = alternate(contenders, options.warm_up, options.runs)
    figures, ratios = {}, {}
    for name, label in {"engine": "through the engine", **{o.name: o.label for o in others}}.items():
        rate = spreads[name].map(lambda seconds: options.context / seconds)
        figures[name] = Figure(label, "tok/s", rate)
        figures[f"{name}.first_token"] = Figure(f"{label}: time to first token", "s", spreads[name])
        if name != "engine":
            # Of speeds, as in `decode`: above 1 where the engine is faster.
            ratios[f"engine/{name}"] = Figure(f"engine / {label}", "", spreads[name].per(spreads["engine"]))
    shares = {"engine": ceiling.share(spreads["engine"].median)}
    return Report(options, network.info, figures, ceiling, shares, ratios, stats[-1])


def first_token(stats: RequestStats) -> float:
    """Seconds from submission to the first token."""
    assert stats.time_to_first_token_s is not None  # a token was written
    return stats.time_to_first_token_s


def _read_baseline(other: Baseline) -> Mapping[str, float]:
    return {other.name: other.run().first_token_s}
