"""The reference backend: the oracle's NumPy over pages of keys and values; slow, complete, nothing compiled."""
