"""The benchmarks: one module for each command of `python -m jet.bench`."""
