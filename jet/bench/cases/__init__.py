"""The benchmarks, a module for each command of `python -m jet.bench`."""
