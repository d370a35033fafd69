"""Entry point of `python -m jet.bench`; see `jet.bench.cli`."""

from __future__ import annotations

import sys

from jet.bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
