"""The options of the report, and the plans of `--quick` and `--full`. Does not import torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jet.bench.options import BenchError, Options

STORY_MODEL = "assets/story-model"


@dataclass(frozen=True)
class Plan:
    """The number of runs, tokens and sweep points that a report measures.

    Attributes:
        runs: the measured runs of a variant, and the most of a sweep point, which may have fewer if it is
            slow.
        tokens: the number of tokens decoded in one run of a sweep or a variant.
        contexts, batches: points of the sweeps; those that do not fit in memory are reported as missing.
        efficiency_tokens, efficiency_runs: the tokens of a run, and the runs, for the decode rate in section
            3.
    """

    runs: int
    tokens: int
    contexts: tuple[int, ...]
    batches: tuple[int, ...]
    efficiency_tokens: int
    efficiency_runs: int


QUICK = Plan(3, 24, (512, 1024), (1, 4), 128, 7)
FULL = Plan(5, 32, tuple(512 * 2**n for n in range(10)), tuple(4**n for n in range(5)), 256, 9)


@dataclass(frozen=True)
class ReportOptions:
    """Options of a report, the single place of their defaults.

    Attributes:
        model: folder or hub id of a checkpoint; the story model if neither this nor `config` is given.
        config: a config.json whose network gets random weights.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: "auto", "float32", "bfloat16" or "float16".
        full: whether to measure for many minutes instead of one.
        output: the folder for the report's files.
        progress: whether to print the progress as lines of JSON, for other programs.
        quantize: "int8" or "int4" to quantize the weights, except in the section that compares dtypes; None
            to leave them.
    """

    model: str | None = None
    config: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    full: bool = False
    output: Path = Path("report")
    progress: bool = False
    quantize: str | None = None

    @property
    def plan(self) -> Plan:
        """Return the plan of `--full` or of `--quick`."""
        return FULL if self.full else QUICK

    @property
    def name(self) -> str:
        """Return the folder or hub id of the checkpoint, or the path of the config."""
        return self.model or str(self.config or STORY_MODEL)

    def bench_options(self, command: str = "decode", **more: Any) -> Options:
        """Return the options of a `jet.bench` command on the same network; `more`: further fields of them."""
        model = None if self.config else self.name
        more = {"device": self.device, "dtype": self.dtype, "quantize": self.quantize, **more}
        return Options(command, model, self.config, **more)

    def as_json(self) -> dict[str, Any]:
        """Return the options for the report's JSON, without `output` and `progress`, which change nothing."""
        values = asdict(self) | {"model": None if self.config else self.name}
        values["config"] = None if self.config is None else str(self.config)
        del values["output"], values["progress"]
        return values


@dataclass(frozen=True)
class CompareOptions:
    """The paths of two reports to compare: the second is divided by the first."""

    first: Path
    second: Path


def read_options(arguments: Sequence[str] | None = None) -> ReportOptions | CompareOptions:
    """Parse the command line. Ends the program on an error, as argparse does.

    Raises BenchError for valid options that cannot be measured.
    """
    values = vars(_parser().parse_args(arguments))
    compare = values.pop("compare", None)
    if compare is not None:
        return CompareOptions(*compare)
    values.pop("quick", None)
    random_weights = values.pop("random_weights", False)
    options = ReportOptions(**values)
    if (options.config is not None) != random_weights:
        raise BenchError("--config and --random-weights go together: a config.json holds no weights.")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jet.report",
        description="Measures this machine and writes report.md, report.html, report.json and plots.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", help=f"folder of a checkpoint, or hub id ({STORY_MODEL})")
    source.add_argument("--config", type=Path, help="a config.json, to be given --random-weights")
    parser.add_argument("--random-weights", action="store_true", help="as the network begins its training")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--dtype", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--quantize", choices=["int8", "int4"], help="quantize the weights to int8 or int4")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="about a minute (the default)")
    length.add_argument("--full", action="store_true", help="some minutes: more points, more runs")
    parser.add_argument("--output", type=Path, help=f"folder to write into ({ReportOptions.output})")
    parser.add_argument(
        "--progress", action="store_true", help="print a line of JSON before each part, and the verdict last"
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("A.json", "B.json"),
        help="print every figure of B over that of A, and measure nothing",
    )
    return parser
