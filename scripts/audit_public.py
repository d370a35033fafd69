"""Try to break into a public page, on this machine alone.

python -m scripts.audit_public                          starts a page of its own, public, and tries that
python -m scripts.audit_public http://127.0.0.1:7860    tries one that runs already

What is tried stands in docs/security.md. What lets something through is named; then the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from scripts.audit.trials import TRIALS, Trial
from scripts.audit.wire import Breach, Target


def breach_of(trial: Trial, target: Target) -> str | None:
    """Return what got through; None where nothing did."""
    try:
        trial.run(target)
    except Breach as breach:
        return str(breach)
    except Exception as error:  # the page answers in a way that no trial expects: that is a finding, too
        return f"{type(error).__name__}: {error}"
    return None


@contextmanager
def own_page() -> Iterator[str]:
    """A public page over an engine that only keeps time."""
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
    """Run every trial and print what became of it; how many let something through."""
    breaches = 0
    for number, trial in enumerate(TRIALS, start=1):
        # Each comes from an address of its own, so that none uses up the calls of another.
        found = breach_of(trial, Target(url, f"127.0.1.{number}"))
        breaches += found is not None
        name = f"{trial.group}: {trial.what}"
        print(f"ok    {name}" if found is None else f"OPEN  {name}: {found}")
    print(f"{len(TRIALS)} tried, {breaches} got through.")
    return breaches


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url", nargs="?", help="of a page on this machine; left out: one of its own")
    options = parser.parse_args(arguments)
    if options.url is not None:
        return int(audit(options.url) > 0)
    with own_page() as url:
        return int(audit(url) > 0)


if __name__ == "__main__":
    sys.exit(main())
