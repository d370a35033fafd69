"""The decode step's operations compiled for CPUs. Numba is imported only in this package."""
