"""Kernels of low-rank adapters: products of two thin matrices, added to those of the model's own."""
