"""Give a trained story model the voice of modern stories by default, for texts of unclear style.

    python -m scripts.settle_voice --data DIR --model runs/jet/model --output runs/jet/settled

It takes forty small steps, feasible on a CPU; `scripts/training/voice.py` describes the method. `--output` is
then a transformers directory like `--model`, with a record of the settings in `voice.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

import jet  # noqa: F401  registers the network with transformers
from scripts.training.data import read_stories
from scripts.training.export import TOKENIZER_FILES
from scripts.training.options import add_fields, read_fields
from scripts.training.run import seed_everything
from scripts.training.voice import Voice, settle


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; every field of `Voice` is an option."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="directory that prepare_stories.py wrote")
    parser.add_argument("--model", type=Path, required=True, help="model from train_story_model.py")
    parser.add_argument("--output", type=Path, required=True, help="directory for the new one")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add_fields(parser, Voice)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Load the model, shift its weights by `settle`, and save it."""
    options = parse_arguments(arguments)
    voice = read_fields(Voice, options)
    seed_everything(voice.seed)
    sets = read_stories(options.data, options.model, "train")
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).to(options.device)
    settle(model, sets["modern_train"], sets["classics_train"], voice)
    model.to(torch.bfloat16).save_pretrained(options.output)
    for name in TOKENIZER_FILES:
        shutil.copy(options.model / name, options.output / name)
    record = json.dumps(dataclasses.asdict(voice), indent=2) + "\n"
    (options.output / "voice.json").write_text(record, encoding="utf-8")
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
