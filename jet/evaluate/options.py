"""Options that `stories` and `world` share, and the engine that they choose."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jet.api import Engine
from jet.engine.loading import LocalConfig
from jet.evaluate.compression import EvaluationError
from jet.hardware import DTYPES, HardwareError
from jet.modeling import CheckpointError
from jet.modeling.quantization import SCHEMES


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of a model."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder of a Jet-Nemotron checkpoint, or a hub id")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--dtype", choices=["auto", *DTYPES], default="auto")
    parser.add_argument("--quantize", choices=SCHEMES, help="quantize the weights to int8 or int4")
    parser.add_argument("--quick", action="store_true", help="few and short stories: a first look")
    return parser


def to_config(options: argparse.Namespace) -> LocalConfig:
    """Return the engine's configuration from parsed options."""
    return LocalConfig(options.model, options.device, options.dtype, quantize=options.quantize)


@contextmanager
def engine_of(config: LocalConfig) -> Iterator[Engine]:
    """Load an engine, yield it, and close it at the end. Raises EvaluationError if it cannot be loaded."""
    try:
        engine = config.create()
    except (CheckpointError, HardwareError) as error:
        raise EvaluationError(str(error)) from error
    try:
        yield engine
    finally:
        engine.close()


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON atomically. Raises EvaluationError if that fails."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise EvaluationError(f"{path} cannot be written: {error.strerror}.") from error
