"""Encoder-decoders on the CPU: packed weights, two programs, the memory of sources and targets."""
