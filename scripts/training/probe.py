"""Measure how fast a device trains: seconds to compile and tokens a second, for shapes and forms of the rule.

    python -m scripts.training.probe --seconds 8 --shape 640:1920:jjajjsjaj:6 --shape 512:1536:jjjajjsjjjaj:6

A shape is hidden size, MLP size, layers and jet heads. Rows are random tokens, so it needs no data. Each line
of the output is JSON; its last fields are what a step costs beside the forward and backward pass.
"""

from __future__ import annotations

import argparse
import gc
import json
import time

import numpy as np
import torch
from transformers import PreTrainedModel

from scripts.training.averaging import Average
from scripts.training.fake_quant import FakeQuantizer
from scripts.training.kernels import prepare_kernels
from scripts.training.learner import Learner
from scripts.training.network import build_jet, build_transformer, count, delta_rule, make_trainable
from scripts.training.optimizer import StoryOptimizer
from scripts.training.recipe import Recipe

VOCABULARY = 8192


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", action="append", help="HIDDEN:MLP:LAYERS:JET_HEADS; default: the recipe's")
    parser.add_argument("--rule", action="append", choices=("plain", "library"), help="default: plain")
    parser.add_argument("--architecture", choices=("jet", "transformer"), default="jet")
    parser.add_argument("--length", type=int, default=4096, help="tokens of a row")
    parser.add_argument("--rows", type=int, default=32, help="rows of a step")
    parser.add_argument("--micro-rows", type=int, default=32, help="rows on the device at once")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-compile", action="store_true", help="run the layers as they are")
    return parser.parse_args(arguments)


def recipe_of(shape: str | None, options: argparse.Namespace) -> Recipe:
    """Return the recipe of a shape, or the default recipe if `shape` is None.

    Raises ValueError if the shape is not written as the help says.
    """
    rows = {"length": options.length, "batch": options.rows, "micro_batch": options.micro_rows}
    if shape is None:
        return Recipe(**rows)
    hidden, intermediate, pattern, heads = shape.split(":")
    return Recipe(
        hidden=int(hidden),
        intermediate=int(intermediate),
        pattern=pattern,
        heads=int(hidden) // 64,
        jet_heads=int(heads),
        **rows,
    )


def measure(model: PreTrainedModel, recipe: Recipe, seconds: float, compiled: bool) -> dict[str, float]:
    """Train for `seconds` seconds, and return what that costs; the keys name the units.

    The first step includes compilation, and its key `first_step` is in seconds. `recipe` gives the shape of a
    batch.
    """
    learner = Learner(model, recipe, compiled)
    optimizer, average = StoryOptimizer(model, recipe), Average(model, recipe.average)
    rng = np.random.default_rng(0)
    shape = (recipe.batch, recipe.length + 1)

    def clock() -> float:
        if learner.device.type == "cuda":
            torch.cuda.synchronize()
        return time.monotonic()

    def step() -> None:
        learner.learn(rng.integers(2, VOCABULARY, shape, dtype=np.uint16), 0.5)
        optimizer.step(0.5)
        average.update()

    started = clock()
    step()
    compiling, begun, steps = clock() - started, clock(), 0
    while clock() - begun < seconds:
        step()
        steps += 1
    per_step = (clock() - begun) / steps
    begun = clock()
    with FakeQuantizer(model).applied():
        rounding = clock() - begun
    begun = clock()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(0.5)
    return {
        "first_step": round(compiling, 2),
        "tokens_per_second": round(recipe.batch * recipe.length / per_step),
        "step_ms": round(1e3 * per_step, 1),
        "optimizer_ms": round(1e3 * (clock() - begun), 1),
        "rounding_ms": round(1e3 * rounding, 1),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure all shapes with all forms of the rule, and print a line for each."""
    options = parse_arguments(arguments)
    device = torch.device(options.device)
    compiled = not options.no_compile and device.type == "cuda"
    torch.set_float32_matmul_precision("high")
    build = build_jet if options.architecture == "jet" else build_transformer
    for shape in options.shape or [None]:
        recipe = recipe_of(shape, options)
        for rule in options.rule or ["plain"]:
            torch.manual_seed(0)
            value = int(recipe.jet_head_dim * recipe.jet_expand)
            result: dict[str, object] = {"shape": shape, "rule": rule, "architecture": options.architecture}
            try:
                prepare_kernels(rule, recipe.jet_heads, recipe.jet_head_dim, value, device)
                model = build(recipe, VOCABULARY)
                result["parameters"] = count(model)
                make_trainable(model, recipe, device, compiled)
                with delta_rule(rule):
                    result |= measure(model, recipe, options.seconds, compiled)
                if device.type == "cuda":
                    result["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
                    torch.cuda.reset_peak_memory_stats()
            except (RuntimeError, torch.OutOfMemoryError) as error:
                result["error"] = str(error)[:300]
            print(json.dumps(result), flush=True)
            model = None  # type: ignore[assignment]
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
