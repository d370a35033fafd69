"""Train the story model, or the plain transformer it is compared with, on one GPU.

    python -m scripts.train_story_model --data DIR/stories.npz.xz --tokenizer assets/story-model \\
        --output runs/jet --tokens 600e6

`scripts/prepare_stories.py` makes the data. The run continues from `--output/checkpoint.pt` if it exists;
SIGTERM and Ctrl-C write it. At the end `--output/model` is a transformers directory in bfloat16
with the tokenizer in it, beside `record.json`, `curve.csv` and `curve.png`.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from scripts.training.data import read_stories
from scripts.training.kernels import prepare_kernels
from scripts.training.network import build_jet, build_transformer, count, make_trainable
from scripts.training.options import add_fields, read_fields
from scripts.training.recipe import Recipe
from scripts.training.run import Budget, Run, seed_everything

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; every field of the recipe is an option."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="stories.npz.xz from prepare_stories.py")
    parser.add_argument("--tokenizer", type=Path, required=True, help="directory of the tokenizer")
    parser.add_argument("--output", type=Path, required=True, help="directory of this run")
    parser.add_argument(
        "--weights", type=Path, help="finished model to train on from, with a recipe of its own"
    )
    parser.add_argument("--architecture", choices=("jet", "transformer"), default="jet")
    parser.add_argument("--tokens", type=float, help="stop after so many tokens")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes of training")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-compile", action="store_true", help="run the layers as they are")
    parser.add_argument(
        "--save-every", type=float, default=120, metavar="SECONDS", help="between checkpoints"
    )
    parser.add_argument("--validations", type=int, default=8, help="how often to validate in the whole run")
    add_fields(parser.add_argument_group("recipe"), Recipe)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Build the model, resume from a checkpoint if there is one, train, and save."""
    options = parse_arguments(arguments)
    recipe = read_fields(Recipe, options)
    budget = Budget(options.tokens, options.minutes)
    started = time.monotonic()
    torch.set_float32_matmul_precision("high")
    seed_everything(recipe.seed)
    sets = read_stories(options.data, options.tokenizer)
    vocabulary = 1 + max(int(stories.tokens.max()) for stories in sets.values())
    vocabulary = -(-vocabulary // 64) * 64  # a multiple of 64 keeps the head's products aligned
    model = (build_jet if options.architecture == "jet" else build_transformer)(recipe, vocabulary)
    if options.weights is not None:
        weights = load_file(options.weights / "model.safetensors")
        model.load_state_dict(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]})
    compiled = not options.no_compile and options.device.startswith("cuda")
    if options.architecture == "jet":
        sizes = model.config.jet
        prepare_kernels(sizes.num_heads, sizes.head_dim, sizes.head_v_dim, torch.device(options.device))
    make_trainable(model, recipe, torch.device(options.device), compiled)
    run = Run(model, sets, recipe, budget, options.output, compiled)
    if run.checkpoint.exists():
        run.resume()
    print(
        f"{options.architecture}, {count(model) / 1e6:.2f} M parameters, from step {run.place.step}, "
        f"ready after {time.monotonic() - started:.0f} s",
        flush=True,
    )
    if run.train(options.save_every, options.validations):
        target = run.finish()
        for name in TOKENIZER_FILES:
            shutil.copy(options.tokenizer / name, target / name)
        print(f"wrote {target}")


if __name__ == "__main__":
    main()
