"""Run `python -m jet.evaluate`: `stories`, `world`, or the bits per byte of a file."""

from __future__ import annotations

import sys

from jet.evaluate import main, stories, world

COMMANDS = {"stories": stories.main, "world": world.main}

if __name__ == "__main__":
    run = COMMANDS.get(sys.argv[1] if len(sys.argv) > 1 else "")
    raise SystemExit(main() if run is None else run(sys.argv[2:]))
