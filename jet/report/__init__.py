"""The command line of the performance report, `python -m jet.report`; the report is `jet.bench.report`."""
