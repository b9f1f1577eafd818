"""Arithmetic behind one seam: each backend runs planned rows of a model in its own way."""
