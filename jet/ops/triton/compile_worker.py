"""Worker process that compiles kernels: reads a JSON line for each job, writes one with the outcome.

It imports Triton and the kernels but not transformers, so it is ready seconds before the process that started
it. `jet.ops.kernel_compiler` starts it with `PROGRAM`.
"""

from __future__ import annotations

import json
import os
import sys

from jet.ops.gpu_target import GpuTarget
from jet.ops.triton.cache_keys import settle_keys
from jet.ops.triton.compile_jobs import CompileJob, build_utilities, run_job


def main(nice: int) -> None:
    """Compile jobs until the input ends.

    The first input line is the target: a JSON list of the fields of `GpuTarget`. Each further line is a job:
    a JSON list of the fields of `CompileJob`, or `null` for the driver's utilities.

    `nice`: the number to add to this process's niceness.
    """
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
