"""Test a simulated call on ZeroGPU: a fork of a process that never used CUDA, with compiled kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from jet.ops.gpu_target import gpu_target

pytestmark = pytest.mark.gpu

STORY_MODEL = Path(__file__).parents[2] / "assets" / "story-model"
PROGRAM = """
import json, os, sys, time
import torch
import jet.engine.zerogpu as zerogpu
from jet.api import Request, SamplingParams
from jet.engine.loading import LocalConfig

config = LocalConfig(sys.argv[1], "cuda", "bfloat16")
request = Request("Once upon a time", SamplingParams(temperature=0, max_new_tokens=5, seed=0))
reader, writer = os.pipe()
assert not torch.cuda.is_initialized()
if os.fork() == 0:
    import triton
    compiled, answers = [], []
    listen = lambda src, cache_hit, **rest: None if cache_hit else compiled.append(src.name)
    triton.knobs.compilation.listener = listen
    for _ in range(2):
        begun, first, text = time.monotonic(), None, ""
        for chunk in zerogpu.generate(config, request, 0.0):
            if chunk.token_ids and first is None:
                first = time.monotonic() - begun
            text += chunk.text
        answers.append({"text": text, "error": chunk.stats.error, "first_s": first})
    os.write(writer, json.dumps({"answers": answers, "compiled": compiled}).encode())
    os._exit(0)
os.wait()
os.set_blocking(reader, False)
print(os.read(reader, 2**16).decode())
"""


def run(command: list[str], **env: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "JET_LAZY_IMPORTS": "1", "PYTHONPATH": os.getcwd(), **env},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(400)
def test_a_worker_compiles_nothing_and_writes_at_once(tmp_path: Path) -> None:
    target = gpu_target("cuda")
    assert target is not None
    named = ["--target", target.name, "--processors", str(target.processors)]
    ahead = ["-m", "jet.warm", "--model", str(STORY_MODEL), *named]
    told = run(ahead, TRITON_CACHE_DIR=str(tmp_path), CUDA_VISIBLE_DEVICES="")
    assert " 0 compiled" not in told
    found = json.loads(run(["-c", PROGRAM, str(STORY_MODEL)], TRITON_CACHE_DIR=str(tmp_path)))
    first, second = found["answers"]
    print(f"first call {first['first_s']:.2f} s, second {second['first_s']:.3f} s")
    assert first["error"] is None and first["text"]
    assert second["text"] == first["text"]
    assert found["compiled"] == []
