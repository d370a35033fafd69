"""Write the model of a run that is not finished: the average, or the last weights, of its checkpoint.

    python -m scripts.training.export --run runs/jet --tokenizer DATA --output runs/jet/so-far

`--output` is a transformers directory in bfloat16, which `python -m jet.quantize` takes.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch

from scripts.training.data import TALE
from scripts.training.network import build_jet, build_transformer
from scripts.training.recipe import Recipe

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="directory with checkpoint.pt")
    parser.add_argument("--tokenizer", type=Path, required=True, help="directory of the tokenizer")
    parser.add_argument("--output", type=Path, required=True, help="directory for the model")
    parser.add_argument("--weights", choices=("average", "last"), default="average")
    parser.add_argument("--architecture", choices=("jet", "transformer"), default="jet")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Load the checkpoint and write its weights."""
    options = parse_arguments(arguments)
    state: dict[str, Any] = torch.load(
        options.run / "checkpoint.pt", map_location="cpu", weights_only=True, mmap=True
    )
    names = [field.name for field in dataclasses.fields(Recipe)]
    recipe = Recipe(**{name: state["recipe"][name] for name in names})
    vocabulary = len(state["model"]["model.embed_tokens.weight"])
    model = (build_jet if options.architecture == "jet" else build_transformer)(recipe, vocabulary)
    model.load_state_dict(state["model"])
    if options.weights == "average":
        with torch.no_grad():
            for parameter, values in zip(model.parameters(), state["average"]["weights"], strict=True):
                parameter.copy_(values)
    if model.generation_config is not None:
        model.generation_config.suppress_tokens = [TALE]
    model.to(torch.bfloat16).save_pretrained(options.output)  # type: ignore[arg-type]
    for name in TOKENIZER_FILES:
        shutil.copy(options.tokenizer / name, options.output / name)
    print(f"wrote {options.output}, {options.weights} weights of step {state['place']['step']}")


if __name__ == "__main__":
    main()
