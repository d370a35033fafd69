"""Triton kernels of the decode step. Triton is imported here and nowhere else in `jet`."""
