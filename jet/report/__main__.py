"""Measure this machine and write a report about it.

    python -m jet.report --quick --model assets/story-model --output report
    python -m jet.report --full --config config.json --random-weights
    python -m jet.report --compare A.json B.json

An interrupted run stores its measurements in the output folder, and continues when it is started again. The
exit code is 2, with a message, if nothing can be measured or a figure is impossible; 130 after Ctrl-C.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict

from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from jet.bench.options import BenchError
from jet.bench.report.compare import compare
from jet.bench.report.data import Report, ReportProgress, load
from jet.bench.report.export import export
from jet.bench.report.plan import CompareOptions, ReportOptions, read_options
from jet.bench.report.render import verdict
from jet.bench.report.runner import run
from jet.hardware import HardwareError
from jet.modeling import CheckpointError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    # A shell that starts a page in the background has it ignore interrupts, and what it starts inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    disable_progress_bar()
    for library in ("huggingface_hub", "transformers"):
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        options = read_options(arguments)
        if isinstance(options, CompareOptions):
            print(compare(load(options.first), load(options.second)))  # noqa: T201
            return 0
        return _report(options)
    except (BenchError, CheckpointError, HardwareError) as error:
        print(f"Error: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        return 2


def _report(options: ReportOptions) -> int:
    report = run(options, _tell) if options.progress else _run_with_bar(options)
    export(report, options.output)
    summary = verdict(report)
    if options.progress:
        print(json.dumps({"message": summary or ""}), flush=True)  # noqa: T201
    else:
        print("\n".join(filter(None, [summary, f"Written to {options.output}."])))  # noqa: T201
    return 130 if report.document["stopped"] else 0


def _run_with_bar(options: ReportOptions) -> Report:
    with tqdm(unit="part", disable=None, leave=False) as bar:

        def show(progress: ReportProgress) -> None:
            bar.total = progress.total
            bar.set_description(progress.part, refresh=False)
            bar.update(progress.done - bar.n)
            bar.refresh()

        return run(options, show)


def _tell(progress: ReportProgress) -> None:
    print(json.dumps(asdict(progress)), flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
