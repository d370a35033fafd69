"""The options of the benchmarks with their defaults, and their command line. Does not import torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jet.api import SamplingParams

COMMANDS = {
    "decode": "tokens a second after the first one: through the engine, and in a bare loop beside it",
    "prefill": "how fast a prompt is read, and the time to the first token",
    "start": "a fresh process, from its start to its first token",
    "throughput": "tokens a second of many requests at once",
    "sessions": "the time to the first token of going on, trying again, taking back and branching",
    "soak": "whether everything holds with many requests that come and go, and the gaps between tokens",
    "kernels": "where the time of a step goes, operation by operation",
    "stream": "what a page sees: chunks at 20 Hz, and how late the last one is",
}
PREFIX_CACHING = ("sessions", "soak")  # in these, writers come back to what they wrote
BASELINES = ("transformers", "torchao", "llama.cpp")
JOIN_TOKENS = 32  # tokens that a writer may write while another one joins, in `throughput`
CONTINUE_TOKENS = 27  # tokens of about 20 words, with which `sessions` goes on
MIN_RUNS = 5  # fewer say nothing about the spread


class BenchError(ValueError):
    """Something cannot be measured, or was measured wrongly. The message says what and why."""


class ImpossibleError(BenchError):
    """A figure is above what the hardware can reach, so this measurement is wrong, and others may be, too."""


@dataclass(frozen=True)
class Options:
    """Options of a benchmark, the single place of their defaults.

    Attributes:
        command: one of COMMANDS.
        model: folder or hub id of a checkpoint, or None where `config` is given.
        config: a config.json whose network gets random weights.
        batch: the number of concurrent requests, for `throughput` and `soak`.
        context: the number of tokens of the prompt.
        tokens: the number of tokens decoded in one run, the first one included.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: "auto", "float32", "bfloat16" or "float16".
        quantize: "int8" or "int4" to quantize the weights; None to leave them.
        runs, warm_up: the number of measured runs, and of runs before them that are not measured.
        greedy: take the likeliest token; otherwise sample with the page's defaults.
        baseline: "transformers" to run its `generate()` in turn; "torchao", for `decode`, to run the products
            of a step; "llama.cpp", for `decode` on a CPU, to run a transformer of the same sizes; None for no
            baseline.
        child: whether this is the new process that `start` measures.
        threads: most threads on a CPU; None for as many as this process may use.
        seconds: the duration of one run of `soak`.
        full_attention: whether every layer of the `config` is a full attention layer.
        arguments: the command line, from which `start` starts its new process.
    """

    command: str
    model: str | None = None
    config: Path | None = None
    batch: int = 1
    context: int = 512
    tokens: int = 256
    device: str = "auto"
    dtype: str = "auto"
    quantize: str | None = None
    runs: int = 5
    warm_up: int = 1
    greedy: bool = False
    baseline: str | None = None
    child: bool = False
    threads: int | None = None
    seconds: int = 60
    full_attention: bool = False
    arguments: tuple[str, ...] = ()

    @property
    def new_tokens(self) -> int:
        """Return the most tokens by which a measured story grows."""
        if self.command == "sessions":
            return 2 * self.tokens + CONTINUE_TOKENS
        if self.command == "throughput":
            return self.tokens + JOIN_TOKENS * self.batch
        return self.tokens if self.command in ("decode", "stream", "soak") else 1

    @property
    def min_new_tokens(self) -> int:
        """Return the number of tokens for which the network's context must have room after the prompt."""
        return self.tokens if self.command == "throughput" else self.new_tokens

    @property
    def sampling(self) -> SamplingParams:
        """Return the sampling parameters, with a fixed seed, so that all runs are the same."""
        sampled = SamplingParams(max_new_tokens=self.tokens, seed=0)
        return replace(sampled, temperature=0.0, repetition_penalty=1.0) if self.greedy else sampled


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """Parse the command line. Ends the program on an error, as argparse does.

    Raises BenchError for valid options that cannot be measured.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    values = vars(_parser().parse_args(arguments))
    random_weights = values.pop("random_weights", False)
    values.pop("sampled", None)  # the default, to be named if one likes
    options = Options(**values, arguments=tuple(arguments))
    if (options.config is not None) != random_weights:
        raise BenchError("--config and --random-weights go together: a config.json holds no weights.")
    if options.full_attention and options.config is None:
        raise BenchError("--full-attention is for the network of a --config: a checkpoint has its layers.")
    if options.baseline == "torchao" and options.quantize is None:
        raise BenchError(
            "--baseline torchao is compared with quantized weights: add --quantize int8 or int4."
        )
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jet.bench",
        description="Measures a model on this machine: a table, then one line of JSON.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, description in COMMANDS.items():
        # Left out is absent, so that every default stands in Options alone.
        command = commands.add_parser(
            name,
            help=description,
            description=f"Measures {description}.",
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )
        _add_common(command)
        if name == "start":
            command.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
        else:
            _add_request(command, greedy=name == "soak")
        if name in ("decode", "stream", "throughput", "sessions", "soak"):
            command.add_argument("--tokens", type=_int_from(2), help=f"decoded in a run ({Options.tokens})")
        if name == "soak":
            command.add_argument("--seconds", type=_int_from(1), help=f"of one run ({Options.seconds})")
        if name in ("throughput", "soak"):
            command.add_argument("--batch", type=_int_from(1), help=f"concurrent requests ({Options.batch})")
        if name in ("decode", "prefill"):
            choices = BASELINES if name == "decode" else BASELINES[:1]
            command.add_argument("--baseline", choices=choices, help="what to measure in turn with ours")
    return parser


def _add_common(command: argparse.ArgumentParser) -> None:
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="folder of a checkpoint, or hub id")
    source.add_argument("--config", type=Path, help="a config.json, to be given --random-weights")
    command.add_argument("--random-weights", action="store_true", help="as the network begins its training")
    command.add_argument(
        "--full-attention", action="store_true", help="give every layer of the config full attention"
    )
    command.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    command.add_argument("--dtype", help="auto, float32, bfloat16 or float16")
    command.add_argument("--threads", type=_int_from(1), help="at most, on a CPU (all)")
    command.add_argument("--quantize", choices=["int8", "int4"], help="quantize the weights to int8 or int4")
    command.add_argument(
        "--runs", type=_int_from(MIN_RUNS), help=f"that count, {MIN_RUNS} or more ({Options.runs})"
    )
    command.add_argument("--warm-up", type=_int_from(1), help=f"runs before those ({Options.warm_up})")


def _add_request(command: argparse.ArgumentParser, greedy: bool) -> None:
    """Add the options of a request.

    `greedy`: whether decoding is always greedy, so that no option chooses.
    """
    command.add_argument("--context", type=_int_from(1), help=f"tokens of the prompt ({Options.context})")
    if greedy:
        return
    sampling = command.add_mutually_exclusive_group()
    sampling.add_argument("--greedy", action="store_true", help="take the likeliest token")
    sampling.add_argument(
        "--sampled", action="store_true", help="sample with the page's defaults (the default)"
    )


def _int_from(minimum: int) -> Callable[[str], int]:
    """Return a parser of integers that are at least `minimum`."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"must be a whole number from {minimum} on, not {text!r}")
        return int(text)

    return read
