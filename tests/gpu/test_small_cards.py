"""Test a GPU of 6 GB, simulated by a limit on allocations: models that fit, and messages for the others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jet import JetNemotronConfig
from tests.bench.test_bytes_moved import OFFICIAL_2B
from tests.conftest import ROOT

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]

LIMITED = """
import sys, torch
from jet.bench.__main__ import main
total = torch.cuda.get_device_properties(0).total_memory
torch.cuda.set_per_process_memory_fraction(float(sys.argv[1]) / total)
code = main(sys.argv[2:])
print(torch.cuda.max_memory_reserved())
sys.exit(code)
"""


def decode(limit: float, config: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LIMITED, str(limit), "decode", "--config", str(config)]
    options = ["--random-weights", "--dtype", "bfloat16", "--tokens", "16", "--runs", "5", *more]
    return subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("official")
    JetNemotronConfig(**OFFICIAL_2B).save_pretrained(folder)
    return folder / "config.json"


@pytest.mark.parametrize(
    ("context", "quantize", "most"),
    [(8192, None, 6e9), (65536, "int8", 6e9), (8192, "int8", 4e9), (8192, "int4", 3e9)],
)
def test_the_2b_runs_within(context: int, quantize: str | None, most: float, config: Path) -> None:
    more = [] if quantize is None else ["--quantize", quantize]
    done = decode(most, config, "--context", str(context), *more)
    assert done.returncode == 0, done.stderr
    *_, told, reserved = done.stdout.splitlines()
    report = json.loads(told)
    assert report["network"]["quantization"] == quantize
    speed = report["figures"]["engine"]["median"]
    print(f"{quantize}, {context}: {int(reserved) / 1e9:.2f} GB, {speed:.0f} tok/s")
    assert int(reserved) <= most


def test_what_does_not_fit_says_what_would(config: Path) -> None:
    done = decode(3e9, config, "--context", "512")
    assert done.returncode == 2
    assert "does not fit" in done.stderr and "to int8 or int4" in done.stderr
