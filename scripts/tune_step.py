"""Find the tilings of the decode step's products that make the whole step fastest on this GPU.

    python -m scripts.tune_step --config config.json [--quantize int8]

The fastest tiling of an isolated product (`scripts.tune_kernels`) is often not the fastest in a step, where
products overlap and share multiprocessors, memory and cache. So this captures the step of a random network as
one graph for each tiling of a product, and keeps the fastest while it tries the next product, in descending
order of bytes. Before and after, it tries how many bytes of the next weight to prefetch. It prints values for
`default_gemv_config` and `QUANTIZED_CONFIGS` in `jet/ops/triton/gemv_config.py` and for `PREFETCH_BYTES` in
`jet/ops/triton/common.py`, and changes neither file.

Jet steps are left out: their tiling shapes a buffer that the next product reads. As in `tune_kernels`,
`--workers` processes compile first.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Union

import torch

from jet.bench import networks
from jet.bench.cases.kernels import make_timer, prefilled
from jet.bench.options import BenchError, Options
from jet.engine.decode_step import StepOp
from jet.hardware import DTYPES, HardwareError, choose_device
from jet.modeling import JetNemotronConfig
from scripts.tune_kernels import compile_in_parallel, gemv_configs, make_parser, products, weight_shape

if TYPE_CHECKING:
    from jet.ops.triton.gemv_config import GemvConfig

Way = Union["GemvConfig", int]  # a tiling, or a number of prefetched bytes
Ways = Mapping[str, Way]  # by the name of a choice; the default without an entry

AHEAD = "bytes fetched ahead"
MANY_AHEAD = (2**19, 2**20, 2**21, 2**22)
CONTEXT = 256  # tokens before the step
RUNS = 7  # the median counts
LEAST_GAIN = 1e-3  # of a step; smaller gains are noise


@dataclass(frozen=True)
class Choice:
    """A setting with several alternatives."""

    name: str
    usual: Way
    ways: Sequence[Way]


@dataclass(frozen=True)
class Outcome:
    """Outcome of a choice: a step's seconds before it and with each alternative, and the kept one."""

    choice: Choice
    before: float
    tried: Mapping[Way, float]
    kept: Way


def descend(
    choices: Sequence[Choice], seconds: Callable[[Ways], float], tell: Callable[[Outcome], None]
) -> dict[str, Way]:
    """Choose settings by coordinate descent: one after the other, each with those already chosen.

    Returns only settings that differ from the default. An alternative that fails is skipped. The best one is
    timed again before it is kept, because the best of many measurements is also the luckiest.
    """
    kept: dict[str, Way] = {}
    for choice in choices:
        present = kept.get(choice.name, choice.usual)
        before, tried = seconds(kept), {}
        for way in choice.ways:
            if way != present:
                try:
                    tried[way] = seconds({**kept, choice.name: way})
                except Exception as error:  # does not compile, or needs more than the GPU has
                    print(f"{choice.name}, {way}: {type(error).__name__}", file=sys.stderr)
        best = min(tried, key=tried.__getitem__, default=present)
        if tried.get(best, before) < before:
            again, other = seconds({**kept, choice.name: best}), seconds(kept)
            if again < (1 - LEAST_GAIN) * other:
                kept[choice.name] = best
        tell(Outcome(choice, before, tried, kept.get(choice.name, choice.usual)))
    usual = {choice.name: choice.usual for choice in choices}
    return {name: way for name, way in kept.items() if way != usual[name]}


def name_of(part: StepOp) -> str:
    """Return the kernel and the shape of its weight, on which a tiling depends."""
    if part.weight is None or not isinstance(part.run, partial):
        return part.name
    return name_of_product(part.run.func.__name__, part.weight.shape)


def name_of_product(kind: str, shape: Sequence[int]) -> str:
    """Return the name that `name_of` gives to a product of this kind and weight shape."""
    return f"{kind} {shape[0]} × {shape[1]}"


def product_choices(config: JetNemotronConfig, parts: Sequence[StepOp]) -> list[Choice]:
    """Return the tilings of every product of a step except jet steps, in descending order of bytes.

    Programs of one row are left out, because each would read the whole input for a single row.
    """
    from jet.ops.triton.gemv_config import GemvConfig, gemv_config_for

    weights = {name_of(part): part.weight for part in parts}
    moved: Counter[str] = Counter()
    for part in parts:
        moved[name_of(part)] += part.nbytes
    found = {}
    for product in products(config):
        name = name_of_product(product.kind, weight_shape(product))
        weight = weights.get(name)
        if weight is not None and product.kind != "jet_step":
            usual = gemv_config_for(product.kind, product.n, weight)  # type: ignore[arg-type]
            ways = [GemvConfig(*sizes) for sizes in gemv_configs(product, weight) if sizes[0] > 1]
            found[name] = Choice(name, usual, ways)
    if not found:
        raise BenchError("No product of a step is one of the Triton kernels here: there is nothing to tune.")
    return sorted(found.values(), key=lambda choice: -moved[choice.name])


def cut(parts: Sequence[StepOp], ways: Ways) -> list[StepOp]:
    """Return the parts of the step with the tilings in `ways`, which has them by the parts' names."""
    return [
        part._replace(run=partial(part.run, config=ways[name])) if (name := name_of(part)) in ways else part  # type: ignore[call-arg]
        for part in parts
    ]


@contextmanager
def fetching(most: int) -> Iterator[None]:
    """Make kernels that are launched in the block prefetch `most` bytes of the next weight."""
    from jet.ops.triton import common

    usual = common.PREFETCH_BYTES
    common.PREFETCH_BYTES = most
    try:
        yield
    finally:
        common.PREFETCH_BYTES = usual


def step_timer(parts: Sequence[StepOp], device: torch.device, prefetch: int) -> Callable[[Ways], float]:
    """Return a function that times a step with given settings; `prefetch` is the default number of bytes."""

    def seconds(ways: Ways) -> float:
        most = ways.get(AHEAD, prefetch)
        assert isinstance(most, int)
        with fetching(most):  # captured into the graph
            run = make_timer(cut(parts, ways), device)
        return statistics.median(run() for _ in range(RUNS))

    return seconds


def short(config: JetNemotronConfig) -> JetNemotronConfig:
    """Return the configuration of a network with one layer of each type, which has the same kernels."""
    config = copy.deepcopy(config)
    config.layer_types = list(dict.fromkeys(config.layer_types or []))
    config.num_hidden_layers = len(config.layer_types)
    return config


@torch.inference_mode()
def compile_share(options: argparse.Namespace, config: JetNemotronConfig, device: torch.device) -> None:
    """Run every `workers`-th tiling once in a short network, to fill Triton's cache."""
    model = networks.random_network(short(config), device, DTYPES[options.dtype], options.quantize)
    parts = networks.make_runner(model, frozenset(), CONTEXT).decode_step.ops
    of_name = {name_of(part): part for part in parts}
    tried = [(choice.name, way) for choice in product_choices(config, parts) for way in choice.ways]
    for name, way in tried[options.share :: options.workers]:
        with suppress(Exception):  # reported when it is timed
            cut([of_name[name]], {name: way})[0].run()
    torch.cuda.synchronize(device)


def tune(options: argparse.Namespace, device: torch.device) -> None:
    """Load the network, read a prompt, find the fastest step and print it."""
    from jet.ops.triton.common import PREFETCH_BYTES

    asked = Options(
        "kernels",
        config=options.config,
        context=CONTEXT,
        device=str(device),
        dtype=options.dtype,
        quantize=options.quantize,
    )
    network = networks.load(asked)
    parts = network.runner.decode_step.ops
    prefetch = Choice(AHEAD, PREFETCH_BYTES, MANY_AHEAD)
    choices = [prefetch, *product_choices(network.model.config, parts), prefetch]
    with torch.inference_mode(), prefilled(network, asked):
        seconds = step_timer(parts, device, PREFETCH_BYTES)
        kept = descend(choices, seconds, lambda outcome: print(describe(outcome, options.top), flush=True))
        before, after = seconds({}), seconds(kept)
    print(f"\nstep: {before * 1e6:,.1f} µs before, {after * 1e6:,.1f} µs after")
    print("\n".join(f"  {name}: {way}" for name, way in kept.items()) or "  nothing makes it faster")


def describe(outcome: Outcome, top: int) -> str:
    """Format a choice and its fastest alternatives, in lines."""
    choice = outcome.choice
    lines = [
        f"\n{choice.name}: usually {choice.usual}, kept {outcome.kept}; step {outcome.before * 1e6:,.1f} µs"
    ]
    best = sorted(outcome.tried.items(), key=lambda pair: pair[1])[:top]
    return "\n".join([*lines, *(f"  {took * 1e6:10,.1f} µs  {way}" for way, took in best)])


def main(arguments: list[str] | None = None) -> None:
    """Compile in parallel, then try one product after the other."""
    given = sys.argv[1:] if arguments is None else arguments
    options = make_parser(__doc__).parse_args(given)
    try:
        config, device = networks.read_config(options.config), choose_device("cuda")
        if options.share is not None:
            compile_share(options, config, device)
            return
        compile_in_parallel("scripts.tune_step", given, options.workers)
        tune(options, device)
    except (BenchError, HardwareError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
