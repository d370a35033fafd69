"""Benchmarks of a model on this machine: `python -m jet.bench COMMAND`; see `jet.bench.cli`."""
