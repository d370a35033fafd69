"""Attack a public page on this machine with a list of trials.

python -m scripts.audit_public                          starts a public page and attacks it
python -m scripts.audit_public http://127.0.0.1:7860    attacks a running page

docs/security.md lists the trials. Those that succeed are named, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from scripts.audit import api_trials  # noqa: F401 - they join the list
from scripts.audit.trials import TRIALS, Trial
from scripts.audit.wire import Breach, Target


def breach_of(trial: Trial, target: Target) -> str | None:
    """Run a trial; return what got through, None if nothing did."""
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


def audit(url: str) -> int:
    """Run every trial and print its result; return how many let something through."""
    breaches = 0
    for number, trial in enumerate(TRIALS, start=1):
        # Each trial has its own source address, so that none uses up the rate limit of another.
        found = breach_of(trial, Target(url, f"127.0.1.{number}"))
        breaches += found is not None
        name = f"{trial.group}: {trial.what}"
        print(f"ok    {name}" if found is None else f"OPEN  {name}: {found}")
    print(f"{len(TRIALS)} tried, {breaches} got through.")
    return breaches


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the audit. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url", nargs="?", help="of a page on this machine; left out: one of its own")
    options = parser.parse_args(arguments)
    if options.url is not None:
        return int(audit(options.url) > 0)
    with own_page() as url:
        return int(audit(url) > 0)


if __name__ == "__main__":
    sys.exit(main())
