"""The records of a training run: its curve and its measurements."""

from __future__ import annotations

import csv
import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from scripts.training.guided import Mix
from scripts.training.recipe import Recipe

CURVE = ("step", "tokens", "seconds", "rate", "loss")


@dataclass
class Place:
    """Progress of a run."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0  # of training steps, without compilation and validation
    curve: list[tuple[float, ...]] = field(default_factory=list)
    validation: list[dict[str, Any]] = field(default_factory=list)


def write_record(
    directory: Path, model: PreTrainedModel, recipe: Recipe, mix: Mix, place: Place, weights: str
) -> None:
    """Write `curve.csv`, `record.json` and, if matplotlib is installed, `curve.png`."""
    with (directory / "curve.csv").open("w", newline="") as file:
        csv.writer(file).writerows([CURVE, *place.curve])
    on_gpu = next(model.parameters()).is_cuda
    record = {
        "recipe": dataclasses.asdict(recipe),
        "mix": dataclasses.asdict(mix),
        "model": model.config.model_type,
        "layers": model.config.layer_types,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": place.step,
        "tokens": place.tokens,
        "seconds": round(place.seconds, 1),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "weights": weights,
        "validation_bits_per_byte": place.validation,
    }
    (directory / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    draw_curve(place, directory / "curve.png")


def draw_curve(place: Place, path: Path) -> None:
    """Plot training loss and validation bits per byte over the tokens."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="tokens, millions", ylabel="training loss, nats per token")
    losses = [point[-1] for point in place.curve]
    axes.plot([point[1] / 1e6 for point in place.curve], losses, lw=0.8, color="C0")
    axes.set_ylim(top=min(5.0, max(losses)))
    right = axes.twinx()
    right.set_ylabel("validation, bits per byte")
    for color, name in (("C1", "modern"), ("C2", "classics")):
        points = [(entry["tokens"] / 1e6, entry[name]) for entry in place.validation if name in entry]
        if points:
            right.plot(*zip(*points, strict=True), "o-", color=color, label=name)
    if right.lines:
        right.legend()
    figure.savefig(path, dpi=110)
