"""`python -m jet.warm`: compile an engine's kernels ahead, with or without a GPU.

    python -m jet.warm                                   for the GPU of this machine
    python -m jet.warm --target sm_90 --target sm_120    for other GPUs; this machine needs none
    python -m jet.warm --target sm_90 --folder /kernels  for an image, in which JET_KERNELS=/kernels is set

The engine uses the compiled kernels at its start if Triton, Python and this program have the same versions,
and the GPU is of the same kind. Otherwise it logs the difference and compiles its own kernels.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jet.modeling import JetNemotronConfig
    from jet.ops.gpu_target import GpuTarget


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m jet.warm", description=str(__doc__).partition("\n")[0])
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--model", help="folder or hub id of a checkpoint; of one on the hub only its config is fetched"
    )
    source.add_argument("--config", type=Path, help="a config.json (default: that of the official 2B)")
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        help="GPU to compile for, like sm_90; several times for several; default: this machine's",
    )
    parser.add_argument(
        "--processors", type=int, help="multiprocessors of the target; default: the usual card's"
    )
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--quantize", choices=["int8", "int4"])
    parser.add_argument(
        "--max-running-requests", type=int, default=128, help="stories written at once, at most"
    )
    parser.add_argument("--folder", type=Path, help="where compiled kernels go; default: Triton's own folder")
    parser.add_argument("--workers", type=int, help="processes; default: one a processor")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile kernels and print a summary. Returns the exit code, 1 if anything failed."""
    options = read_options(arguments)
    if options.folder is not None:
        os.environ["TRITON_CACHE_DIR"] = str(options.folder.resolve())
    started = time.monotonic()
    try:
        failed = _warm(options)
    except (ValueError, RuntimeError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(f"{time.monotonic() - started:.1f} s")
    return failed


def _warm(options: argparse.Namespace) -> int:
    import torch

    from jet.engine.kernel_store import KernelSet, compile_all, kernel_folder
    from jet.engine.start_kernels import graph_sizes
    from jet.ops.availability import has_triton

    if not has_triton():
        raise RuntimeError("Triton is not installed, and there is nothing to compile without it.")
    config = _read_config(options.model, options.config)
    failed = 0
    for target in _targets(options.target, options.processors):
        kernels = KernelSet(config, getattr(torch, options.dtype), options.quantize, target)
        result = compile_all(
            kernels,
            graph_sizes(options.max_running_requests),
            options.workers,
            ahead=True,
            say=lambda line: print(line, flush=True),
        )
        print(f"{result.compiled} compiled, {result.found} found in {kernel_folder()}")
        for error in result.errors:
            print(f"Error: {error}", file=sys.stderr)
        failed |= bool(result.errors)
    return failed


def _read_config(model: str | None, path: Path | None) -> JetNemotronConfig:
    from jet.engine import hub, loading
    from jet.modeling import JetNemotronConfig

    if path is None:
        source = loading.resolve_path(model or loading.OFFICIAL_MODEL)
        path = Path(source, "config.json")
        if hub.is_repository(source):
            path = hub.fetch_config(*hub.split(source))
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        config: JetNemotronConfig = JetNemotronConfig.from_dict(values)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no config of a Jet-Nemotron network: {error}") from error
    return config


def _targets(names: Sequence[str], processors: int | None) -> list[GpuTarget]:
    import torch

    from jet.ops.gpu_target import GpuTarget, gpu_target

    if names:
        return [GpuTarget.named(name, processors) for name in names]
    found = gpu_target("cuda") if torch.cuda.is_available() else None
    if found is None:
        raise ValueError(
            "There is no GPU here: name the one to compile for, with --target sm_90 for example."
        )
    return [found]


if __name__ == "__main__":
    raise SystemExit(main())
