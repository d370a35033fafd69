"""The performance report of a machine: `python -m jet.report`, or `run()` from a program."""

from jet.report.options import ReportOptions
from jet.report.report import Progress, Report
from jet.report.running import run

__all__ = ["Progress", "Report", "ReportOptions", "run"]
