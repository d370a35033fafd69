"""`python -m jet.ui.accounts FILE NAME`, as it was typed before `python -m jet.server.accounts`."""

from __future__ import annotations

import sys

from jet.server.accounts import main

if __name__ == "__main__":
    sys.exit(main())
