"""Attack a public page, and an API with keys, on this machine with a list of trials.

python -m scripts.audit_public                          starts both and attacks them
python -m scripts.audit_public http://127.0.0.1:7860    attacks a running page, with `--api-key` its API, too

docs/security.md lists the trials. The output names those that got through; the exit code is 1 if there are
any.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from scripts.audit import api_trials  # noqa: F401 - they join the list
from scripts.audit.trials import TRIALS, Trial
from scripts.audit.wire import Breach, Target

API_TRIALS = [trial for trial in TRIALS if trial.group == "API"]


def breach_of(trial: Trial, target: Target) -> str | None:
    """Run a trial; return the message of its breach or of an unexpected error, or None if it was refused."""
    try:
        trial.run(target)
    except Breach as breach:
        return str(breach)
    except Exception as error:  # an answer that the trial does not expect is a finding, too
        return f"{type(error).__name__}: {error}"
    return None


@contextmanager
def own_page() -> Iterator[str]:
    """Serve a public page over the paced engine; yield its URL."""
    from jet.server.hosting import Hosting
    from jet.server.limits import PUBLIC
    from jet.ui.page import build, launch
    from scripts.load.engine import PacedEngine

    hosting = Hosting(PUBLIC)
    engine = PacedEngine()
    demo = build(engine, hosting)
    try:
        yield launch(demo, hosting=hosting)
    finally:
        demo.close(verbose=False)
        engine.close()


@contextmanager
def own_api() -> Iterator[tuple[str, str]]:
    """Serve the API alone, with keys, over the paced engine; yield its URL and a key."""
    from jet.server.hosting import Hosting
    from jet.server.limits import PUBLIC
    from jet.server.openai import ApiOptions, Keys
    from jet.server.standalone import launch_api
    from scripts.load.engine import PacedEngine

    key = "audit-Key-5f2c-91d7"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "keys"
        file.write_text(f"audit: {key}\nother: another-key-33\n")
        hosting = Hosting(PUBLIC, api=ApiOptions(Keys.read(file)))
    engine = PacedEngine()
    server = launch_api(engine, hosting)
    try:
        yield server.url, key
    finally:
        server.close()
        engine.close()


def audit(url: str, trials: Sequence[Trial] = TRIALS, key: str | None = None) -> int:
    """Run trials and print their results; return the number of trials that got through."""
    breaches = 0
    for number, trial in enumerate(trials, start=1):
        # Each trial has its own source address, so that none uses up the rate limit of another.
        found = breach_of(trial, Target(url, f"127.0.1.{number}", key))
        breaches += found is not None
        name = f"{trial.group}: {trial.what}"
        print(f"ok    {name}" if found is None else f"OPEN  {name}: {found}")
    print(f"{len(trials)} tried, {breaches} got through.")
    return breaches


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the audit. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url", nargs="?", help="of a page on this machine; left out: one of its own")
    parser.add_argument("--api-key", metavar="FILE", help="a key of the page's API alone in a file")
    options = parser.parse_args(arguments)
    if options.url is not None:
        key = Path(options.api_key).read_text().strip() if options.api_key else None
        return int(audit(options.url, key=key) > 0)
    with own_page() as url:
        breaches = audit(url)
    with own_api() as (url, key):
        breaches += audit(url, API_TRIALS, key)
    return int(breaches > 0)


if __name__ == "__main__":
    sys.exit(main())
