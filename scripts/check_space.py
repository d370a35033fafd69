"""Install what a Space installs into an empty environment, and generate a story with the app there.

python -m scripts.check_space               on this machine, whose package index decides which PyTorch it gets
python -m scripts.check_space --dry-run     only ask the index whether everything fits together

A Space installs the version of Gradio that the README names, `spaces`, and requirements.txt. It does not use
constraints.txt.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_START_S = 180.0
_STORY = """
import sys
from gradio_client import Client
client = Client(sys.argv[1], verbose=False)
story, stats = client.predict("The old lighthouse keeper", max_new_tokens=40, seed=1, api_name="/generate")
assert stats["tokens"] and len(story) > 60, stats
print(story)
"""


def wanted(readme: Path = ROOT / "README.md") -> list[str]:
    """Return the requirements that a Space installs, as arguments for pip."""
    version = re.findall(r"^sdk_version: (\S+)$", readme.read_text(encoding="utf-8"), re.MULTILINE)[0]
    return [f"gradio=={version}", "spaces", "-r", str(ROOT / "requirements.txt")]


def resolve(python: Path, timeout_s: float) -> dict[str, str]:
    """Return the packages that pip would install, each name with its version.

    Raises CalledProcessError if the requirements do not fit together.
    """
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        options = ["--dry-run", "--ignore-installed", "--quiet", "--report", report.name]
        subprocess.run(_pip(python, *options), check=True, timeout=timeout_s, capture_output=True, text=True)
        found = json.loads(Path(report.name).read_text(encoding="utf-8"))["install"]
    names = (re.sub(r"[-_.]+", "-", one["metadata"]["name"]).lower() for one in found)
    return dict(zip(names, (one["metadata"]["version"] for one in found), strict=True))


def write_a_story(python: Path) -> str:
    """Start the app, generate a story and return it."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    command = [str(python), "app.py", "--model", "assets/story-model"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as app:
        assert app.stdout is not None
        try:
            url = next(found[1] for line in app.stdout if (found := re.search(r"is at (\S+)", line)))
            _wait_for(url + "healthz")
            story = [str(python), "-c", _STORY, url]
            return subprocess.run(story, check=True, capture_output=True, text=True, timeout=_START_S).stdout
        finally:
            app.terminate()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        python = make_environment(Path(folder))
        started = time.monotonic()
        if options.dry_run:
            for name, version in sorted(resolve(python, 600).items()):
                print(f"{name}=={version}")
            return 0
        subprocess.run(_pip(python, "--quiet"), check=True)
        print(f"Installed in {time.monotonic() - started:.0f} s.")
        print(write_a_story(python))
    return 0


def make_environment(folder: Path) -> Path:
    """Create an empty environment, without pip of its own; return its Python."""
    venv.create(folder)
    return folder / "bin" / "python"


def _pip(python: Path, *options: str) -> list[str]:
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    return [*pip, "install", "--disable-pip-version-check", *options, *wanted()]


def _wait_for(url: str) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.2)
    raise TimeoutError(url)


if __name__ == "__main__":
    sys.exit(main())
