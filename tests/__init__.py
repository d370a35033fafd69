"""Tests, in the folders of `jet/`: `tests/engine` tests `jet/engine`, and so on."""
