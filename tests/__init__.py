"""The tests mirror `jet/`: `tests/engine` holds those of `jet/engine`, and so on."""
