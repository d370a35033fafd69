"""Measurements of any model on this machine: `python -m jet.bench decode|prefill|start|stream`."""
