"""Kernels of mixtures of experts: routing of rows, and products with the chosen experts' weights."""
