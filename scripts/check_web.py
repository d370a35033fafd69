"""Check the JavaScript of `assets/web`: lint and format by Biome, types by TypeScript.

python -m scripts.check_web           checks; exits with 1 if something is wrong
python -m scripts.check_web --write   fixes what can be fixed automatically

Both tools are fetched from npm, in the versions of `assets/web/package-lock.json`. Without npm or its
registry this prints a warning and checks nothing; the page itself needs neither.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

WEB = Path(__file__).resolve().parents[1] / "assets" / "web"
TOOLS = WEB / "node_modules"
FETCH_S = 120  # limit for an unreachable registry


def fetch() -> str | None:
    """Install both tools unless they are present. Returns the reason if that failed, else None."""
    lock = WEB / "package-lock.json"
    have = TOOLS / ".package-lock.json"
    if have.exists() and have.stat().st_mtime >= lock.stat().st_mtime:
        return None
    npm = shutil.which("npm")
    if npm is None:
        return "npm is not installed"
    quiet = ["--no-audit", "--no-fund", "--fetch-retries=1", "--loglevel=error"]
    try:
        subprocess.run([npm, "ci", *quiet], cwd=WEB, check=True, timeout=FETCH_S, stdout=subprocess.DEVNULL)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        return f"npm could not fetch Biome and TypeScript ({error})"
    os.utime(have)
    return None


def check(write: bool) -> bool:
    """Run both tools, which print what they find. Returns True if both pass."""
    linted = run(["biome", *(["check", "--write"] if write else ["ci"]), ".", "../../tests/web"])
    typed = run(["tsc", "--project", "tsconfig.json"])
    return linted and typed


def run(command: Sequence[str]) -> bool:
    """Run one of the tools in the folder of the modules. Returns True if it passes."""
    tool = TOOLS / ".bin" / command[0]
    return subprocess.run([tool, *command[1:]], cwd=WEB).returncode == 0


def main(arguments: Sequence[str]) -> int:
    """Check or fix. Returns the exit code."""
    if reason := fetch():
        rule = "!" * 78
        print(f"{rule}\nJAVASCRIPT IS NOT CHECKED: {reason}.\n{rule}", file=sys.stderr)
        return 0
    return 0 if check("--write" in arguments) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
