"""The decode step's operations compiled for the CPU. Numba is imported here and nowhere else in `jet`."""
