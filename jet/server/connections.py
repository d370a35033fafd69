"""Configure uvicorn's connections: keep-alive time and the limit of open files."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

# Who keeps an idle connection as long as the server does may send a call into it just as it is closed, and
# cannot know whether that was heard. uvicorn's 5 s are what some clients keep, too; proxies keep up to 60.
KEEP_ALIVE_S = 65
_MAX_OPEN_FILES = 65_536  # connections are files to the system, which often allows 1,024 unless it is asked


def configure_server(server: Any) -> None:
    """Set keep-alive for new connections of uvicorn's `server`, and raise the limit of open files."""
    server.config.timeout_keep_alive = KEEP_ALIVE_S
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(_MAX_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # some systems allow fewer than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
