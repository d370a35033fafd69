"""A training run: steps, checkpoints that resume exactly, validation, and records."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from scripts.training.averaging import Average
from scripts.training.data import TALE, StorySet, validation_rows
from scripts.training.fake_quant import FakeQuantizer
from scripts.training.guided import Mix
from scripts.training.learner import Learner
from scripts.training.optimizer import StoryOptimizer
from scripts.training.recipe import Recipe
from scripts.training.records import CURVE, Place, write_record
from scripts.training.rows import Mixture

LOG_EVERY = 20  # steps: reading a loss waits for the device


@dataclass(frozen=True)
class Budget:
    """End of a run: after so many tokens or minutes, whichever comes first."""

    tokens: float | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if not (self.tokens or self.minutes):
            raise ValueError("A run needs a budget: tokens or minutes.")

    def progress(self, tokens: int, seconds: float) -> float:
        """Return the finished part of the run, 0 to 1."""
        by_tokens = tokens / self.tokens if self.tokens else 0.0
        by_time = seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(by_tokens, by_time))


class Run:
    """Trains `model` on `mixture` until the budget is spent; `directory` gets checkpoint, log and record."""

    def __init__(
        self,
        model: PreTrainedModel,
        sets: dict[str, StorySet],
        mixture: Mixture,
        recipe: Recipe,
        mix: Mix,
        budget: Budget,
        directory: Path,
        compiled: bool = False,
    ) -> None:
        self.model, self.sets, self.mixture, self.recipe, self.mix = model, sets, mixture, recipe, mix
        self.budget, self.directory = budget, directory
        self.optimizer = StoryOptimizer(model, recipe)
        self.average = Average(model, recipe.average)
        self.rounding = FakeQuantizer(model)
        self.place = Place()
        self.learner = Learner(model, recipe, compiled)
        self._validation = {name: validation_rows(stories, recipe.length) for name, stories in sets.items()}

    @property
    def progress(self) -> float:
        """Return the finished part of the run, 0 to 1."""
        return self.budget.progress(self.place.tokens, self.place.seconds)

    # --- training ---------------------------------------------------------------------------------

    def train(self, save_every: float = 120.0, validate: int = 8, stop_at: float = math.inf) -> bool:
        """Train until the budget is spent; return False if it was stopped before, after writing a checkpoint.

        SIGTERM and Ctrl-C stop a run, and so does the clock.

        Args:
            save_every: seconds between checkpoints.
            validate: number of validations, spread over the run; the last one is at its end.
            stop_at: time of `time.monotonic()` at which to stop.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        saved = time.monotonic()
        with stop_signals() as stopped, tqdm(total=100, unit="%", desc="training", mininterval=5) as bar:
            while self.progress < 1 and not stopped:
                self._some_steps(stopped)
                self._log(self.place.curve[-1])
                if time.monotonic() > stop_at:
                    stopped.append(0)
                bar.set_postfix_str(
                    f"loss {self.place.curve[-1][-1]:.3f}, {self.place.tokens / 1e6:.0f} M tokens, "
                    f"{self.speed():.0f}/s"
                )
                bar.update(100 * self.progress - bar.n)
                if len(self.place.validation) + 1 <= self.progress * validate < validate:
                    self.validate(quantized=self.recipe.is_quantized(self.progress))
                if time.monotonic() - saved > save_every:
                    self.save()
                    saved = time.monotonic()
        self.save()
        self.write_record()
        return not stopped

    def _log(self, entry: Any) -> None:
        """Append a point of the curve, or a validation, to `log.jsonl`."""
        values = (
            entry
            if isinstance(entry, dict)
            else {**dict(zip(CURVE, entry, strict=True)), "speed": self.speed()}
        )
        with (self.directory / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def speed(self) -> float:
        """Return tokens per second over the last interval of the curve; 0 before the first one."""
        if len(self.place.curve) < 2:
            return 0.0
        (_, before, since, *_), (_, tokens, now, *_) = self.place.curve[-2:]
        return (tokens - before) / (now - since) if now > since else 0.0

    def _some_steps(self, stopped: list[int]) -> None:
        """Run up to `LOG_EVERY` steps without synchronizing, then add a point to the curve.

        Ends early once `stopped` has an entry. Raises FloatingPointError if the loss is not finite.
        """
        started = time.monotonic()
        seconds, first = self.place.seconds, self.place.step == 0 or not hasattr(self, "_warm")
        total = torch.zeros((), device=self.learner.device)
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
        """Train on one batch: forward, backward, update. Returns the mean loss in nats, on the device."""
        rows = self.mixture.batch(self.place.step, progress)
        rounded = self.rounding.applied() if self.recipe.is_quantized(progress) else nullcontext()
        with rounded:
            total = self.learner.learn(rows, progress)
        self.optimizer.step(progress)
        self.average.update()
        self.place.step += 1
        self.place.tokens += self.recipe.batch * self.recipe.length
        return total

    # --- validation -------------------------------------------------------------------------------

    @torch.no_grad()
    def validate(self, weights: str = "last", quantized: bool = False) -> dict[str, Any]:
        """Measure the bits per byte of every validation set, and add them to the record.

        Args:
            weights: what the record calls the weights that the model holds.
            quantized: measure them as they will be quantized.
        """
        self.model.eval()
        result: dict[str, Any] = {"step": self.place.step, "tokens": self.place.tokens, "weights": weights}
        result["quantized"] = quantized
        rounded = self.rounding.applied() if quantized else nullcontext()
        with torch.compiler.set_stance("force_eager"), rounded:
            for name, (rows, counts) in self._validation.items():
                nats = self.learner.nats(rows, counts)
                result[name.removesuffix("_validation")] = (
                    nats / math.log(2) / int(self.sets[name].bytes.sum())
                )
        self.place.validation.append(result)
        self._log(result)
        tqdm.write(f"validation, bits per byte: {result}")
        return result

    # --- checkpoints ------------------------------------------------------------------------------

    @property
    def _settings(self) -> dict[str, Any]:
        return dataclasses.asdict(self.recipe) | dataclasses.asdict(self.mix)

    @property
    def checkpoint(self) -> Path:
        """Return the path of the file from which a run resumes."""
        return self.directory / "checkpoint.pt"

    def save(self) -> None:
        """Write the checkpoint; the old one is replaced only once the new one is complete."""
        state = {
            "recipe": self._settings,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
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
        if state["recipe"] != self._settings:
            raise ValueError(f"{self.checkpoint} was written by another recipe: {state['recipe']}.")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.mixture.go_to(state["data"])
        self.place = Place(**state["place"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"]:
            torch.cuda.set_rng_state_all(state["random_cuda"])

    # --- results ----------------------------------------------------------------------------------

    def finish(self) -> Path:
        """Choose average or last weights, round them to bfloat16, and write a transformers directory.

        The choice is the one with the lower loss on modern stories, measured on quantized weights. The record
        has both measurements. Returns the directory.
        """
        names = ("last", "average")
        losses = {}
        for name in names:
            with self.average.applied() if name == "average" else nullcontext():
                losses[name] = self.validate(name, quantized=True)
        best = min(names, key=lambda name: losses[name].get("modern", math.inf))
        if best == "average":
            self.average.copy_to_model()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(parameter.bfloat16())
        self.validate(f"{best}, in bfloat16")
        self.write_record(best)
        target = self.directory / "model"
        self.model.config._attn_implementation = None
        if self.model.generation_config is not None:
            self.model.generation_config.suppress_tokens = [TALE]
        self.model.to(torch.bfloat16).save_pretrained(target)  # type: ignore[arg-type]
        return target

    def write_record(self, weights: str = "") -> None:
        """Write `curve.csv`, `record.json` and, if matplotlib is installed, `curve.png`."""
        write_record(self.directory, self.model, self.recipe, self.mix, self.place, weights)


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
