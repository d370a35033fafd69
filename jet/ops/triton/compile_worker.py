"""A process that compiles kernels: jobs in, one JSON line each; what became of each out, one line each.

It imports Triton and the kernels and nothing of transformers, so it is ready seconds before the process that
started it. See `jet.ops.kernel_compiler`, which starts it with `PROGRAM`.
"""

from __future__ import annotations

import json
import os
import sys

from jet.ops.gpu_target import GpuTarget
from jet.ops.triton.cache_keys import settle_keys
from jet.ops.triton.compile_jobs import CompileJob, build_utilities, run_job


def main(nice: int) -> None:
    """Do jobs until the input ends. The first line is the target; before other jobs `null` may stand."""
    if nice:
        os.nice(nice)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # compilers may print
    settle_keys()
    target = GpuTarget(*json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        job = json.loads(line)
        try:
            compiled, folders = (
                (False, build_utilities()) if job is None else run_job(CompileJob(*job), target)
            )
            answer: dict[str, object] = {"compiled": compiled, "folders": folders}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
