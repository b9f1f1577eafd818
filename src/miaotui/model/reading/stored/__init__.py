"""Tensors that files keep joined, apart or turned, as the matrices that a pass wants."""
