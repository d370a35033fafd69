"""Write a quantized checkpoint: python -m jet.quantize SOURCE --to int8|int4 OUT."""

from __future__ import annotations

import argparse
import sys
import time

from jet.modeling import CheckpointError
from jet.modeling.quantization import SCHEMES
from jet.modeling.quantized_writing import write_quantized


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m jet.quantize",
        description="Write a checkpoint with its weights in int8 or int4: half or a third of the disk, and "
        "loaded as fast as that reads.",
    )
    parser.add_argument("source", help="folder in transformers' format, or a hub id")
    parser.add_argument("out", help="folder to write, which must not exist")
    parser.add_argument("--to", required=True, choices=SCHEMES, help="how to hold the weights")
    parser.add_argument("--revision", help="branch, tag or commit of a hub repository")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Write the checkpoint. Returns the exit code; on failure it is 2, and the reason is on stderr."""
    options, started = parse_arguments(arguments), time.monotonic()
    try:
        folder = write_quantized(options.source, options.to, options.out, options.revision, _show)
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 1e9:.2f} GB in {options.to}, {time.monotonic() - started:.0f} s")
    return 0


def _show(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {total} matrices", end="" if done < total else "\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
