"""Chromium for the browser tests.

`python -m tests.chromium` installs it through apt if that needs no password; otherwise it prints that
those tests will be skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC_APPS = (
    Path("/Applications/Chromium.app/Contents/MacOS/Chromium"),
    Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"),
)


def find_chromium() -> str | None:
    """Return the path of Chromium or Chrome: `$JET_CHROMIUM`, the search path, or macOS's applications."""
    chosen = os.environ.get("JET_CHROMIUM")
    if chosen:
        return shutil.which(chosen)
    on_path = (shutil.which(name) for name in NAMES)
    in_apps = (str(app) for app in MAC_APPS if app.exists())
    return next((path for path in (*on_path, *in_apps) if path), None)


def apt_command() -> list[str] | None:
    """Return the apt-get command that works here without a password; None if there is none."""
    if shutil.which("apt-get") is None:
        return None
    if os.geteuid() == 0:
        return ["apt-get"]
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n", "apt-get"]
    return None


def install_chromium() -> None:
    """Install Chromium through apt if allowed. A failure is no error; `find_chromium` shows the result."""
    apt = apt_command()
    if apt is None:
        return
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    packages = ["chromium", "fonts-dejavu-core"]
    for arguments in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *packages]):
        subprocess.run([*apt, *arguments], stdin=subprocess.DEVNULL, stdout=sys.stderr)


def main() -> None:
    if find_chromium() is None:
        print("Chromium is not installed; asking apt for it.", flush=True)
        install_chromium()
    if find_chromium() is None:
        rule = "!" * 78
        print(f"{rule}\nNO CHROMIUM: THE BROWSER TESTS WILL BE SKIPPED.")
        print(f"Install Chromium or Chrome, or point JET_CHROMIUM at one.\n{rule}", flush=True)


if __name__ == "__main__":
    main()
