"""The benchmarks' command line: measures a model on this machine, prints a table, then one line of JSON.

    python -m jet.bench decode --model assets/story-model
    python -m jet.bench decode --config config.json --random-weights --baseline transformers
    python -m jet.bench throughput --model assets/story-model --batch 16
    python -m jet.bench prefill|sessions|soak|kernels|start|stream …

Every command runs once or more to warm up, then five times or more, in turn with its baselines, and prints
median and spread. The modules of jet/bench/cases describe what each command measures, jet/bench/result.py the
JSON. The exit code is 2, with a message, if something cannot be measured or the measurement is implausible.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from importlib import import_module

import torch
from transformers.utils.logging import disable_progress_bar

from jet.api import RequestError
from jet.bench.options import BenchError, Options, read_options
from jet.hardware import HardwareError
from jet.modeling import CheckpointError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark of a command line and print its result; return the exit code."""
    _hush()
    try:
        print(_measure(read_options(arguments)), flush=True)  # noqa: T201
    except (BenchError, CheckpointError, FloatingPointError, HardwareError, RequestError) as error:
        return _refuse(str(error))
    except (MemoryError, torch.OutOfMemoryError) as error:
        return _refuse(f"The memory is full: {error}")
    return 0


def _measure(options: Options) -> str:
    if options.child:
        from jet.bench.cases import start

        return json.dumps(start.child(options))
    result = import_module(f"jet.bench.cases.{options.command}").measure(options)
    return str(result.text())


def _hush() -> None:
    """Silence the libraries' logs: the benchmark reports errors of a model itself."""
    disable_progress_bar()
    for library in ("huggingface_hub", "transformers"):
        logging.getLogger(library).setLevel(logging.ERROR)


def _refuse(message: str) -> int:
    print(f"Error: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    return 2
