"""`start`: measure a new process from its start to its first token.

The process is this command again, with `--child`. It starts like the page, but without the page: imports,
loading the weights, engine and warm-up, then one request for one token. The files of a checkpoint folder are
read once before, so that they come from the system's page cache. With random weights, drawing them counts as
loading.

If kernels are compiled (by Triton on CUDA, by numba on a CPU), cold starts come first, each with an empty
kernel cache, as many as time allows; then warm starts with the cache of the last cold one. There is no
utilization, since most of a start does not move bytes.

An installation usually has compiled bytecode. If this process does not write any (`PYTHONDONTWRITEBYTECODE`),
every start might compile torch and transformers again, which takes 8 seconds. In that case a temporary folder
keeps the bytecode that the first process compiles.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from jet import hardware, lazy_imports
from jet.api import EngineInfo, Request, SamplingParams
from jet.bench import networks
from jet.bench.options import BenchError, Options
from jet.bench.requests import check_finished, token_request
from jet.bench.result import CaseResult, Metric
from jet.bench.samples import Case, Samples, run_interleaved
from jet.engine.engine import LocalEngine
from jet.engine.loading import LocalConfig, create_engine, resolve_path, warm_up_lengths
from jet.modeling.footprint import total_weight_bytes

_HOME = Path(__file__).resolve().parents[2]
_PROMPT = "Once upon a time"
_CONTEXT = 100  # tokens that the network is loaded for
_COMPILERS = {"cuda": "triton", "cpu": "numba"}
# As `app.py` does, whose imports do not wait for the garbage collector, and whose streams do not later.
_PROGRAM = """
import gc
gc.disable()
from jet.bench.__main__ import main
gc.freeze()
gc.enable()
try:
    raise SystemExit(main())
finally:
    gc.unfreeze()
"""
MAX_COLD_S = 100.0  # of cold starts, after which there is no other: on CUDA, compiling takes minutes
READ_BYTES = 2**24  # bytes read at once
_CACHE_VARIABLES = ("TRITON_CACHE_DIR", "NUMBA_CACHE_DIR")
_PHASES = {
    "total": "from process start to first token",
    "imports": "  imports",
    "load": "  weights and tokenizer",
    "engine": "  memory, kernels and graphs",
    "warm_up": "  warm-up",
    "first_token": "  request to first token",
}


def measure(options: Options) -> CaseResult:
    """Start processes and measure their phases."""
    timings: list[dict[str, Any]] = []
    if options.config is None:
        warm_page_cache(Path(resolve_path(str(options.model))))
    with tempfile.TemporaryDirectory(prefix="jet-bench-") as folder:
        start, samples_by_name = (
            partial(_start, options, timings, bytecode_environment(folder)),
            dict[str, Samples](),
        )
        if compiles_kernels(hardware.choose_device(options.device)):
            caches: list[str] = []

            def cold() -> Mapping[str, float]:
                caches.append(tempfile.mkdtemp(dir=folder))
                return start("cold", caches[-1])

            samples_by_name = cold_starts(cold, options.runs, MAX_COLD_S)
            start = partial(start, "warm", caches[-1])
        samples_by_name |= run_interleaved([start], options.warm_up, options.runs)
    metrics = {}
    for name, samples in samples_by_name.items():
        cache, _, part = name.rpartition(".")
        metrics[name] = Metric(_PHASES[part] + (f", {cache} kernel cache" if cache else ""), "s", samples)
    info = EngineInfo(**timings[-1]["info"])
    return CaseResult(replace(options, context=timings[-1]["prompt_tokens"], tokens=1), info, metrics)


def warm_page_cache(folder: Path) -> None:
    """Read the files in a folder, if it exists, so that they are in the system's page cache."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(READ_BYTES):
                    pass


def bytecode_environment(folder: str) -> dict[str, str]:
    """Return environment variables that make processes cache bytecode in `folder`.

    The result is empty if processes cache bytecode anyway.
    """
    if not sys.dont_write_bytecode:
        return {}
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(Path(folder, "python"))}


def cold_starts(start: Case, runs: int, max_total_s: float) -> dict[str, Samples]:
    """Measure up to `runs` cold starts; stop once they have taken `max_total_s` seconds in total."""
    found: dict[str, list[float]] = {}
    for _ in tqdm(range(runs), unit="cold start", disable=None, leave=False):
        for name, value in start().items():
            found.setdefault(name, []).append(value)
        if sum(found["cold.total"]) >= max_total_s:
            break
    return {name: Samples(tuple(values)) for name, values in found.items()}


def compiles_kernels(device: torch.device) -> bool:
    """Return whether the compiler for this kind of device is installed: Triton or numba."""
    return importlib.util.find_spec(_COMPILERS[device.type]) is not None


def _start(
    options: Options,
    timings: list[dict[str, Any]],
    environment: Mapping[str, str],
    kind: str = "",
    cache: str | None = None,
) -> Mapping[str, float]:
    """Start a new process once; return the seconds of its phases, each name prefixed with `kind`.

    Appends the process's own timestamps to `timings`. `cache`: the folder for compiled kernels; None for the
    usual one.
    """
    if cache is not None:
        environment = {**environment, **dict.fromkeys(_CACHE_VARIABLES, cache)}
    started = time.monotonic()
    timings.append(spawn(options.arguments, environment))
    parts = times(started, timings[-1])
    return {f"{kind}.{name}" if kind else name: value for name, value in parts.items()}


def times(started: float, timings: Mapping[str, Any]) -> dict[str, float]:
    """Return the seconds of a start and of its phases.

    `started`: when the command was run, in seconds of the monotonic clock. `timings`: the timestamps that the
    child has reported.
    """
    load, warm_up = timings["info"]["load_s"], timings["info"]["warmup_s"]
    return {
        "total": timings["first_token"] - started,
        "imports": timings["imported"] - started,
        "load": load,
        "engine": timings["asked"] - timings["imported"] - load - warm_up,
        "warm_up": warm_up,
        "first_token": timings["first_token"] - timings["asked"],
    }


def spawn(arguments: tuple[str, ...], environment: Mapping[str, str]) -> dict[str, Any]:
    """Run this command in a new process; return the JSON that it printed last.

    `environment`: variables to add to this process's own. Raises BenchError if the process failed.
    """
    paths = [str(_HOME), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments, "--child"],
        env={**os.environ, **environment, lazy_imports.VARIABLE: "1", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"The process ended with {done.returncode}."]
        raise BenchError(lines[-1].removeprefix("Error: "))
    timings: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return timings


def child(options: Options) -> dict[str, Any]:
    """Run the start in the new process; return its timestamps, by a clock that all processes share."""
    imported = time.monotonic()
    with _engine(options) as (engine, prompt):
        asked = time.monotonic()
        (*_, last) = engine.submit(prompt)
        first_token = time.monotonic()
        return {
            "imported": imported,
            "asked": asked,
            "first_token": first_token,
            "prompt_tokens": check_finished(last, 1).prompt_tokens,
            "info": asdict(engine.info()),
        }


@contextmanager
def _engine(options: Options) -> Iterator[tuple[LocalEngine, Request]]:
    """Create an engine, warm it up, and yield it with the request to send."""
    one = SamplingParams(max_new_tokens=1, seed=0)
    if options.config is None:
        engine = create_engine(
            LocalConfig(options.model, options.device, options.dtype, quantize=options.quantize)
        )
        try:
            yield engine, Request(_PROMPT, one)
        finally:
            engine.close()
        return
    network = networks.load(replace(options, context=_CONTEXT))
    prefilled, decoded = warm_up_lengths(network.device, total_weight_bytes(network.model))  # as the page's
    warm_up = SamplingParams(max_new_tokens=decoded, seed=0)
    with networks.serve(network) as engine:
        engine.warm_up(token_request(network.prompt[:prefilled], warm_up))
        yield engine, token_request(network.prompt[: len(_PROMPT.split())], one)
