"""Run `jet.server.accounts` under its older name: `python -m jet.ui.accounts FILE NAME`."""

from __future__ import annotations

import sys

from jet.server.accounts import main

if __name__ == "__main__":
    sys.exit(main())
