"""Time every tiling of the decode step's GEMV kernels on this GPU.

    python -m scripts.tune_kernels --config config.json --output tilings.json [--quantize int8]

Every product of the network runs with each tiling, over the weights of all layers in sequence, as one CUDA
graph. The output, fastest first, shows how close an isolated product comes to the memory bandwidth;
`scripts.tune_step` finds the tilings that make a whole step fastest. Compiling hundreds of kernels takes
longest, so `--workers` processes do it first, each its share; timing then has the GPU for itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jet.bench.networks import read_config
from jet.modeling import JetNemotronConfig
from jet.ops.backends import has_dependent_launch
from jet.ops.quantization import INT4, INT8, SCHEMES, QuantizedTensor, Weight
from jet.ops.reference import JetSizes

if TYPE_CHECKING:
    from jet.ops.triton.gemv_config import GemvConfig

ROWS, COLUMNS, WARPS = (1, 2, 4, 8, 16, 32), (128, 256, 512, 1024, 2048), (1, 2, 4, 8)
MOST_REGISTERS = 120  # registers for weights per thread at most
RUNS = 9
EPS = 1e-6


@dataclass(frozen=True)
class Product:
    """A kind of product: `layers` weights of `n` rows of `c` values (for `jet_step`, `n` channels).

    `in_mlp` is True for the two products of an MLP.
    """

    kind: str
    n: int
    c: int
    layers: int
    sizes: JetSizes | None = None
    in_mlp: bool = False


def products(config: JetNemotronConfig, only: str | None = None) -> list[Product]:
    """Return the products of a decode step; with `only`, those of one kind."""
    jet, kinds = config.jet, config.layer_types or []
    layers, jets = len(kinds), kinds.count("jet")
    sizes = JetSizes(jet.num_heads, jet.head_dim, jet.head_v_dim, jet.generator_dim, jet.conv_size)
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    hidden, values = config.hidden_size, jet.value_dim
    found = [
        Product("norm_linear", sum(sizes.split_sizes), hidden, jets),
        Product("norm_linear", heads * config.head_dim, hidden, layers - jets),
        Product("norm_linear", config.vocab_size, hidden, 1),
        Product("norm_swiglu", config.intermediate_size, hidden, layers, in_mlp=True),
        Product("linear_add", hidden, config.intermediate_size, layers, in_mlp=True),
        Product("linear_add", hidden, config.num_attention_heads * config.head_dim, layers - jets),
        Product("heads_linear_add", hidden, values, jets, sizes),
        Product("jet_step", values, jet.generator_dim, jets, sizes),
    ]
    return [product for product in found if only in (None, product.kind)]


def gemv_configs(product: Product, weight: Weight) -> Iterator[tuple[int, int, int]]:
    """Yield rows, columns and warps to try: those whose weights fit into a thread's registers.

    `weight` is one of the product's weights.
    """
    span, itemsize = product.c, weight.dtype.itemsize
    if isinstance(weight, QuantizedTensor):
        span, itemsize = weight.row_bytes, 1
    matrices = {"norm_swiglu": 2}.get(product.kind, 1)
    matrices = product.sizes.conv_size if product.kind == "jet_step" and product.sizes else matrices
    # Each program writes whole groups of the packed hidden vector.
    part = 16 if isinstance(weight, QuantizedTensor) and product.kind == "norm_swiglu" else 1
    for rows in filter(lambda rows: rows % part == 0, ROWS):
        for warps in WARPS:
            registers = rows * matrices * span * itemsize / (4 * 32 * warps)
            if registers > MOST_REGISTERS or registers < 2:
                continue
            for columns in COLUMNS:
                lanes = 32 * warps * 16 // itemsize
                if columns <= span and columns <= 2 * lanes:
                    yield rows, columns, warps


def random_weight(rows: int, columns: int, dtype: torch.dtype, scheme: str | None) -> Weight:
    """Return a random weight `[rows, columns]`, quantized if `scheme` is given."""
    if scheme is None:
        return torch.randn((rows, columns), device="cuda", dtype=dtype) * 0.02
    drawn = QuantizedTensor.empty((rows, columns), scheme, dtype, torch.device("cuda"))
    bounds = {INT8: (-127, 128), INT4: (0, 256)}[scheme]
    drawn.qweight.copy_(torch.randint(*bounds, drawn.qweight.shape, device="cuda", dtype=torch.int16))
    drawn.scales.uniform_(1e-4, 1e-3)
    return drawn


def between(size: int, hidden: int, weight: Weight) -> Tensor:
    """Allocate the hidden vector between the two products of an MLP whose weights are like `weight`."""
    from jet.ops.backends import triton_mlp_hidden_format

    scheme = weight.scheme if isinstance(weight, QuantizedTensor) else None
    columns, kind = triton_mlp_hidden_format(size, hidden, weight.dtype, scheme)
    return torch.zeros(1, columns, dtype=kind, device="cuda")


def bind(
    product: Product, weights: list[Weight], pdl: bool
) -> Callable[[GemvConfig], list[Callable[[], None]]]:
    """Return a function from a tiling to the calls of all layers, each with its own weight."""
    from jet.ops.triton import gemv, jet_step

    def random(*shape: int, kind: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, device="cuda", dtype=kind) * 0.02

    n, c, sizes, dtype = product.n, product.c, product.sizes, weights[0].dtype
    x, out, scale = random(1, c), random(1, n), random(c, kind=dtype)
    if product.in_mlp and product.kind == "norm_swiglu":
        out = between(n, c, weights[0])
    elif product.in_mlp:
        x = between(c, n, weights[0])

    def calls(config: GemvConfig) -> list[Callable[[], None]]:
        more: dict[str, Any] = {"pdl": pdl, "config": config}
        if product.kind == "norm_linear":
            return [partial(gemv.norm_linear, x, scale, EPS, w, None, out, **more) for w in weights]
        if product.kind == "norm_swiglu":
            return [partial(gemv.norm_swiglu, x, scale, EPS, w, out, **more) for w in weights]
        if product.kind == "linear_add":
            return [partial(gemv.linear_add, x, w, out, **more) for w in weights]
        assert sizes is not None
        if product.kind == "heads_linear_add":
            partial_squares = random(1, sizes.num_heads, 32).abs()
            return [partial(gemv.heads_linear_add, x, partial_squares, EPS, w, out, **more) for w in weights]
        states = [
            (
                random(2, n, sizes.conv_size, kind=dtype),
                random(2, sizes.num_heads, sizes.head_k_dim, sizes.head_v_dim),
            )
            for _ in weights
        ]
        projected, slots = random(1, sum(sizes.split_sizes)), torch.zeros(1, dtype=torch.int32, device="cuda")
        decay, norm = random(sizes.num_heads), random(sizes.head_v_dim, kind=dtype)
        bias = random(len(weights[0]), kind=dtype)
        partial_squares = random(1, sizes.num_heads, jet_step.num_partials(sizes, weights[0], config))
        return [
            partial(
                jet_step.jet_step,
                projected,
                w,
                bias,
                decay,
                decay,
                slots,
                *state,
                norm,
                out,
                partial_squares,
                sizes,
                load_before_wait=pdl,
                **more,
            )
            for w, state in zip(weights, states, strict=True)
        ]

    return calls


def seconds(calls: list[Callable[[], None]]) -> float:
    """Return the median seconds of a CUDA graph of all calls."""
    for call in calls:
        call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    times = []
    for _ in range(RUNS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return float(statistics.median(times))


def tune(product: Product, weights: list[Weight], pdl: bool) -> list[dict[str, Any]]:
    """Time every configuration in microseconds; return them with the fastest first and the default marked."""
    from jet.ops.triton.gemv_config import GemvConfig, gemv_config_for

    calls = bind(product, weights, pdl)
    usual = gemv_config_for(product.kind, product.n, weights[0])  # type: ignore[arg-type]
    rows = []
    for config in {usual, *(GemvConfig(*cut) for cut in gemv_configs(product, weights[0]))}:
        try:
            took = seconds(calls(config))
        except Exception as error:  # does not compile, or needs more than the GPU has
            print(f"{config}: {type(error).__name__}", file=sys.stderr)
            continue
        rows.append({**asdict(config), "default": config == usual, "us": took / product.layers * 1e6})
    return sorted(rows, key=lambda row: float(row["us"]))


def weight_shape(product: Product) -> tuple[int, int]:
    """Return the weight shape of one layer."""
    width = product.sizes.conv_size if product.sizes else 1
    rows = {"norm_swiglu": 2 * product.n, "jet_step": product.n * width}.get(product.kind, product.n)
    return rows, product.c


def draw(product: Product, dtype: torch.dtype, scheme: str | None) -> list[Weight]:
    """Draw random weights for all layers."""
    return [random_weight(*weight_shape(product), dtype, scheme) for _ in range(product.layers)]


def compile_share(options: argparse.Namespace, config: JetNemotronConfig) -> None:
    """Run every `workers`-th tiling once on one layer, to fill Triton's cache."""
    from jet.ops.triton.gemv_config import GemvConfig

    dtype = getattr(torch, options.dtype)
    for product in products(config, options.only):
        weights = draw(replace(product, layers=1), dtype, options.quantize)
        calls = bind(product, weights, options.pdl)
        for number, cut in enumerate(gemv_configs(product, weights[0])):
            if number % options.workers == options.share:
                try:
                    calls(GemvConfig(*cut))[0]()
                except Exception as error:
                    print(f"{cut}: {type(error).__name__}", file=sys.stderr)
    torch.cuda.synchronize()


def compile_in_parallel(module: str, arguments: list[str], workers: int) -> None:
    """Run a script's own command line in this many processes, each with its `--share` of the compilation."""
    command = [sys.executable, "-m", module, *arguments]
    started = [subprocess.Popen([*command, "--share", str(share)]) for share in range(workers)]
    for worker in started:
        worker.wait()


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return the parser that all tuning scripts share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="config.json of the network")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--quantize", choices=SCHEMES, help="quantize weights to int8 or int4")
    parser.add_argument("--workers", type=int, default=8, help="processes that compile (default: 8)")
    parser.add_argument("--top", type=int, default=5, help="lines of each table (default: 5)")
    parser.add_argument("--share", type=int, help=argparse.SUPPRESS)
    return parser


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--only", help="one kind of product, such as linear_add")
    parser.add_argument("--output", type=Path, help="where to write everything as JSON")
    parser.add_argument("--no-pdl", dest="pdl", action="store_false", help="without dependent launches")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Compile in parallel, then time, then print."""
    options = parse_arguments(arguments)
    config = read_config(options.config)
    options.pdl = options.pdl and has_dependent_launch(torch.device("cuda", 0))
    if options.share is not None:
        compile_share(options, config)
        return
    given = sys.argv[1:] if arguments is None else arguments
    compile_in_parallel("scripts.tune_kernels", given, options.workers)
    dtype, found = getattr(torch, options.dtype), []
    for product in products(config, options.only):
        weights = draw(product, dtype, options.quantize)
        rows = tune(product, weights, options.pdl)
        size = weights[0].nbytes
        found.append({"kind": product.kind, "n": product.n, "c": product.c, "bytes": size, "tilings": rows})
        print(f"\n{product.kind} {product.n} × {product.c}, {size / 1e6:.1f} MB, {product.layers} layers")
        for row in [*rows[: options.top], *(row for row in rows[options.top :] if row["default"])]:
            mark = " (default)" if row["default"] else ""
            cut = f"rows {row['block_n']}, columns {row['block_k']}, warps {row['num_warps']}"
            print(f"  {row['us']:8.2f} µs  {size / row['us'] / 1e3:7.0f} GB/s  {cut}{mark}")
    if options.output is not None:
        options.output.write_text(json.dumps({"device": torch.cuda.get_device_name(), "found": found}))


if __name__ == "__main__":
    main()
