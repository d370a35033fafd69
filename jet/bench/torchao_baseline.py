"""The torchao baseline: the matrix products of a step with weights quantized by torchao, and nothing else.

A step has further operations, so the products alone are an upper bound of the speed with torchao's kernels.
They run under favorable conditions: with this package's fused matrices, all inputs ready at the start, in one
CUDA graph.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable

import torch
from torch import nn

from jet.bench.cases.kernels import make_timer
from jet.bench.options import BenchError
from jet.engine.decode_step import StepOp


def quantize(model: nn.Module, scheme: str) -> None:
    """Quantize the weights of every nn.Linear in place with torchao, in the group sizes of this package.

    "int8" has one scale for each output, "int4" one for each 64 inputs. Raises BenchError if torchao is not
    installed or does not support this.
    """
    if importlib.util.find_spec("torchao") is None:
        raise BenchError("The package torchao is not installed: pip install torchao brings it.")
    from torchao import quantization

    if scheme == "int8":
        how = quantization.Int8WeightOnlyConfig()
    else:  # packed as PyTorch's own kernel reads it: the others ask for a package that cannot be installed
        how = quantization.Int4WeightOnlyConfig(group_size=64, int4_packing_format="tile_packed_to_4d")
    try:
        quantization.quantize_(model, how)
    except (AssertionError, ImportError, ValueError) as error:
        raise BenchError(f"torchao cannot hold these weights in {scheme}: {error}") from error


def make_product_timer(
    parts: Iterable[StepOp], scheme: str, device: torch.device, dtype: torch.dtype
) -> Callable[[], float]:
    """Return a function that measures the seconds of a step's matrix products of one row by torchao.

    The matrices have the shapes of the weights in `parts`, with random values. Each shape is compiled once,
    before the function is returned.
    """
    shapes = [tuple(part.weight.shape) for part in parts if part.weight is not None]
    products = [
        nn.Linear(inputs, outputs, bias=False, device=device, dtype=dtype).requires_grad_(False)
        for outputs, inputs in shapes
    ]
    quantize(nn.ModuleList(products), scheme)
    inputs = {width: torch.randn(1, width, device=device, dtype=dtype) for _, width in shapes}
    compiled = torch.compile(nn.functional.linear, dynamic=False, mode="max-autotune-no-cudagraphs")

    def run() -> None:
        for product in products:
            compiled(inputs[product.in_features], product.weight)

    # Each shape is one more compilation of the same function, and PyTorch gives up after a few of those.
    with torch._dynamo.config.patch(recompile_limit=len(set(shapes)) + 1):
        return make_timer([StepOp("products", run, 0)], device)
