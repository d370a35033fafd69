"""Triton kernels for decode and prefill. Triton is imported only in this package."""
