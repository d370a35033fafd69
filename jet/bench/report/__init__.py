"""The performance report of a machine: `python -m jet.report`, or `run()` from a program."""

from jet.bench.report.data import Report, ReportProgress
from jet.bench.report.plan import ReportOptions
from jet.bench.report.runner import run

__all__ = ["Report", "ReportOptions", "ReportProgress", "run"]
