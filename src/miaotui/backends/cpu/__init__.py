"""The CPU backend: compiled kernels over packed weights, one table of operations for each pass."""
