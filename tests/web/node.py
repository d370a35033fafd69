"""Run Node.js; Playwright brings one, so these tests need no other installation."""

from __future__ import annotations

import subprocess
from pathlib import Path

from playwright._impl._driver import compute_driver_executable

ROOT = Path(__file__).resolve().parents[2]


def run_node(*arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run Node.js in the project's folder; its output is text."""
    node = str(compute_driver_executable()[0])
    command = [node, *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, cwd=ROOT, timeout=100)
