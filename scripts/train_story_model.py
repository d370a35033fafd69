"""Train the story model, or the plain transformer it is compared with, on one GPU.

    python -m scripts.train_story_model --data DIR --output runs/jet --minutes 22

`scripts/prepare_stories.py` makes the data and the tokenizer. The run continues from `--output/checkpoint.pt`
if it exists; SIGTERM, Ctrl-C and `--stop-after` write it. At the end `--output/model` is a transformers
directory in bfloat16 with the tokenizer in it, beside `record.json`, `curve.csv` and `curve.png`.
`scripts/training/README.md` plans a run on a rented GPU.
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from scripts.training.data import read_stories
from scripts.training.export import TOKENIZER_FILES
from scripts.training.guided import Mix
from scripts.training.kernels import prepare_kernels
from scripts.training.network import build_jet, build_transformer, count, delta_rule, make_trainable
from scripts.training.options import add_fields, read_fields
from scripts.training.recipe import Recipe
from scripts.training.rows import Mixture
from scripts.training.run import Budget, Run, seed_everything


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; every field of the recipe is an option."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="directory that prepare_stories.py wrote")
    parser.add_argument(
        "--tokenizer", type=Path, help="directory of the tokenizer (default: that of the data)"
    )
    parser.add_argument("--output", type=Path, required=True, help="directory of this run")
    parser.add_argument(
        "--weights", type=Path, help="finished model to train on from, with a recipe of its own"
    )
    parser.add_argument("--architecture", choices=("jet", "transformer"), default="jet")
    parser.add_argument("--tokens", type=float, help="stop after so many tokens")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes of training")
    parser.add_argument(
        "--stop-after",
        type=float,
        metavar="SECONDS",
        help="stop this process then, and resume with the next one",
    )
    parser.add_argument(
        "--rule", choices=("plain", "library"), default="plain", help="form of the delta rule"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes that make rows")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-compile", action="store_true", help="run the layers as they are")
    parser.add_argument(
        "--save-every", type=float, default=120, metavar="SECONDS", help="between checkpoints"
    )
    parser.add_argument("--validations", type=int, default=8, help="how often to validate in the whole run")
    add_fields(parser.add_argument_group("recipe"), Recipe)
    add_fields(parser.add_argument_group("kinds of texts"), Mix)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Build the model, resume from a checkpoint if there is one, train, and save."""
    options = parse_arguments(arguments)
    recipe, mix = read_fields(Recipe, options), read_fields(Mix, options)
    budget = Budget(options.tokens, options.minutes)
    started = time.monotonic()
    stop_at = started + (options.stop_after or math.inf)
    torch.set_float32_matmul_precision("high")
    seed_everything(recipe.seed)
    tokenizer = options.tokenizer or options.data
    mixture = Mixture(options.data, tokenizer, recipe, mix, options.workers)
    sets = read_stories(options.data, tokenizer, "validation")
    model = make_model(options, recipe, vocabulary_size(tokenizer))
    with delta_rule(options.rule):
        run = make_run(options, model, sets, mixture, recipe, mix, budget)
        print(
            f"{options.architecture}, {count(model) / 1e6:.2f} M parameters, from step {run.place.step}, "
            f"ready after {time.monotonic() - started:.0f} s",
            flush=True,
        )
        finished = run.train(options.save_every, options.validations, stop_at)
        if finished:
            target = run.finish()
            for name in TOKENIZER_FILES:
                shutil.copy(tokenizer / name, target / name)
        print(f"wrote {target if finished else run.checkpoint}")
    mixture.close()


def make_model(options: argparse.Namespace, recipe: Recipe, vocabulary: int) -> PreTrainedModel:
    """Build the network; load its weights from `--weights` if that option is given."""
    model = (build_jet if options.architecture == "jet" else build_transformer)(recipe, vocabulary)
    if options.weights is not None:
        weights = load_file(options.weights / "model.safetensors")
        model.load_state_dict(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]})
    return model


def make_run(options: argparse.Namespace, model: PreTrainedModel, *parts: Any) -> Run:
    """Move the network to the device, check its kernels there, and resume if there is a checkpoint."""
    sets, mixture, recipe, mix, budget = parts
    device = torch.device(options.device)
    compiled = not options.no_compile and device.type == "cuda"
    sizes = model.config.jet
    if options.architecture == "jet":
        prepare_kernels(options.rule, sizes.num_heads, sizes.head_dim, sizes.head_v_dim, device)
    make_trainable(model, recipe, device, compiled)
    run = Run(model, sets, mixture, recipe, mix, budget, options.output, compiled)
    if run.checkpoint.exists():
        run.resume()
    return run


def vocabulary_size(tokenizer: Path) -> int:
    """Return the number of rows of the embedding: a multiple of 64 keeps the head's products aligned."""
    return -(-Tokenizer.from_file(str(tokenizer / "tokenizer.json")).get_vocab_size() // 64) * 64


if __name__ == "__main__":
    main()
