"""Kernels that draft tokens: the suffix index, and a draft head within runs of passes."""
