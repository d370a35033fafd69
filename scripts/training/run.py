"""A training run: steps, checkpoints that resume exactly, validation, and records."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from scripts.training.data import TALE, Mixture, StorySet, validation_rows
from scripts.training.network import token_losses
from scripts.training.optimizer import StoryOptimizer
from scripts.training.recipe import Recipe

LOG_EVERY = 20  # steps: reading a loss waits for the device
CURVE = ("step", "tokens", "seconds", "rate", "loss")


@dataclass(frozen=True)
class Budget:
    """End of a run: after so many tokens or seconds, whichever comes first."""

    tokens: float | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if not (self.tokens or self.minutes):
            raise ValueError("A run needs a budget: tokens or minutes.")

    def progress(self, tokens: int, seconds: float) -> float:
        """Finished part of the run, 0 to 1."""
        by_tokens = tokens / self.tokens if self.tokens else 0.0
        by_time = seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(by_tokens, by_time))


@dataclass
class Place:
    """Progress of a run."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0  # of training steps, without compilation and validation
    curve: list[tuple[float, ...]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)


class Run:
    """Trains `model` on `sets` until the budget is spent; `directory` receives checkpoint and record."""

    def __init__(
        self,
        model: PreTrainedModel,
        sets: dict[str, StorySet],
        recipe: Recipe,
        budget: Budget,
        directory: Path,
        compiled: bool = False,
    ) -> None:
        self.model, self.sets, self.recipe, self.budget, self.directory = (
            model,
            sets,
            recipe,
            budget,
            directory,
        )
        self.device = next(model.parameters()).device
        self.optimizer = StoryOptimizer(model, recipe)
        self.mixture = Mixture(sets, recipe)
        self.place = Place()
        self._losses: Callable[..., Tensor] = torch.compile(token_losses) if compiled else token_losses
        self._validation = {
            name: validation_rows(stories, recipe.length)
            for name, stories in sets.items()
            if name.endswith("_validation")
        }

    @property
    def progress(self) -> float:
        """Finished part of the run, 0 to 1."""
        return self.budget.progress(self.place.tokens, self.place.seconds)

    # --- training ---------------------------------------------------------------------------------

    def train(self, save_every: float = 120.0, validate: int = 8) -> bool:
        """Train until the budget is spent; return False if a signal stopped it, after writing a checkpoint.

        Args:
            save_every: seconds between checkpoints.
            validate: number of validations, spread over the run; the last one is at its end.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        saved = time.monotonic()
        with stop_signals() as stopped, tqdm(total=100, unit="%", desc="training", mininterval=5) as bar:
            while self.progress < 1 and not stopped:
                self._some_steps(stopped)
                bar.set_postfix_str(
                    f"loss {self.place.curve[-1][-1]:.3f}, {self.place.tokens / 1e6:.0f} M tokens, "
                    f"{self.speed():.0f}/s"
                )
                bar.update(100 * self.progress - bar.n)
                if self.progress * validate >= len(self.place.validation) + 1:
                    self.validate()
                if time.monotonic() - saved > save_every:
                    self.save()
                    saved = time.monotonic()
        self.save()
        self.write_record()
        return not stopped

    def speed(self) -> float:
        """Return tokens per second over the last interval of the curve; 0 before the first one."""
        if len(self.place.curve) < 2:
            return 0.0
        (_, before, since, *_), (_, tokens, now, *_) = self.place.curve[-2:]
        return (tokens - before) / (now - since) if now > since else 0.0

    def _some_steps(self, stopped: list[int]) -> None:
        """Run up to `LOG_EVERY` steps without synchronizing, then add a point to the curve."""
        started = time.monotonic()
        seconds, first = self.place.seconds, self.place.step == 0 or not hasattr(self, "_warm")
        total = torch.zeros((), device=self.device)
        steps = 0
        while steps < (1 if first else LOG_EVERY) and self.progress < 1 and not stopped:
            total += self.step(self.progress)
            steps += 1
            if not first:
                self.place.seconds = seconds + time.monotonic() - started
        loss = total.item() / max(steps, 1)
        if not math.isfinite(loss):
            raise FloatingPointError(f"The loss is {loss} at step {self.place.step}.")
        self._warm = True  # the first step of a process compiles and is not timed
        if not first:
            self.place.seconds = seconds + time.monotonic() - started
        rate = self.recipe.rate(self.progress)
        self.place.curve.append((self.place.step, self.place.tokens, self.place.seconds, rate, loss))

    def step(self, progress: float) -> Tensor:
        """Train on one batch:

        forward, backward, update. Returns the mean loss in nats per token, on the device.
        """
        self.model.train()
        rows = self.mixture.batch(self.place.step, progress)
        parts = self.recipe.batch // self.recipe.micro_batch
        total = torch.zeros((), device=self.device)
        for part in np.split(rows, parts):
            loss = self._row_losses(part, self._losses).mean() / parts
            loss.backward()
            total += loss.detach()
        self.optimizer.step(progress)
        self.place.step += 1
        self.place.tokens += self.recipe.batch * self.recipe.length
        return total

    def _row_losses(self, rows: Any, losses: Callable[..., Tensor]) -> Tensor:
        """Return the nats of every token except the first, `[rows, length]`."""
        tokens = torch.from_numpy(rows.astype(np.int64))
        if self.device.type == "cuda":
            tokens = tokens.pin_memory().to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            hidden = self.model.model(tokens[:, :-1], use_cache=False).last_hidden_state
            return losses(hidden, self.model.lm_head.weight, tokens[:, 1:])

    # --- validation -------------------------------------------------------------------------------

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Measure the bits per byte of every validation set, and add them to the record."""
        self.model.eval()
        result = {"step": float(self.place.step), "tokens": float(self.place.tokens)}
        with torch.compiler.set_stance("force_eager"):
            for name, (rows, counts) in self._validation.items():
                size = self.recipe.micro_batch
                nats = sum(
                    self._nats(rows[i : i + size], counts[i : i + size]) for i in range(0, len(rows), size)
                )
                result[name.removesuffix("_validation")] = (
                    nats / math.log(2) / int(self.sets[name].bytes.sum())
                )
        self.place.validation.append(result)
        tqdm.write(f"validation, bits per byte: {result}")
        return result

    def _nats(self, rows: Any, counts: Any) -> float:
        missing = self.recipe.micro_batch - len(rows)  # one shape for all: kernels are tuned for it
        rows = np.pad(rows, ((0, missing), (0, 0)))
        losses = self._row_losses(rows, token_losses)[: len(counts)]
        real = (
            torch.arange(losses.shape[1], device=self.device)
            < torch.from_numpy(counts).to(self.device)[:, None]
        )
        return float((losses.double() * real).sum())

    # --- checkpoints ------------------------------------------------------------------------------

    @property
    def checkpoint(self) -> Path:
        """File from which a run resumes."""
        return self.directory / "checkpoint.pt"

    def save(self) -> None:
        """Write the checkpoint; the old one is replaced only once the new one is complete."""
        state = {
            "recipe": dataclasses.asdict(self.recipe),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "data": self.mixture.position(),
            "place": dataclasses.asdict(self.place),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        unfinished = self.checkpoint.with_suffix(".part")
        torch.save(state, unfinished)
        unfinished.replace(self.checkpoint)

    def resume(self) -> None:
        """Resume from the checkpoint in the directory. Raises ValueError if another recipe wrote it."""
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        if state["recipe"] != dataclasses.asdict(self.recipe):
            raise ValueError(f"{self.checkpoint} was written by another recipe: {state['recipe']}.")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.mixture.go_to(state["data"])
        self.place = Place(**state["place"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"]:
            torch.cuda.set_rng_state_all(state["random_cuda"])

    # --- results ----------------------------------------------------------------------------------

    def finish(self) -> Path:
        """Round the weights to bfloat16, validate, and write a transformers directory."""
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(parameter.bfloat16())
        self.validate()
        self.write_record()
        target = self.directory / "model"
        self.model.config._attn_implementation = None
        if self.model.generation_config is not None:
            self.model.generation_config.suppress_tokens = [TALE]
        self.model.to(torch.bfloat16).save_pretrained(target)  # type: ignore[arg-type]
        return target

    def write_record(self) -> None:
        """Write `curve.csv`, `record.json` and, if matplotlib is installed, `curve.png`."""
        with (self.directory / "curve.csv").open("w", newline="") as file:
            csv.writer(file).writerows([CURVE, *self.place.curve])
        record = {
            "recipe": dataclasses.asdict(self.recipe),
            "model": self.model.config.model_type,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "steps": self.place.step,
            "tokens": self.place.tokens,
            "seconds": round(self.place.seconds, 1),
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            "validation_bits_per_byte": self.place.validation,
        }
        (self.directory / "record.json").write_text(json.dumps(record, indent=2) + "\n")
        draw_curve(self.place, self.directory / "curve.png")


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
    right.legend()
    figure.savefig(path, dpi=110)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yield a list that is empty until SIGTERM or SIGINT arrives; a second signal acts as usual."""
    received: list[int] = []
    old: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        received.append(number)
        print(f"\nsignal {number}: stopping after this step", file=sys.stderr)
        signal.signal(number, old[number])

    for number in (int(signal.SIGTERM), int(signal.SIGINT)):
        old[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def seed_everything(seed: int) -> None:
    """Seed all random number generators; results repeat as far as the device allows."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
