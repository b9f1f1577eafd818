"""Encoder-decoders: their configuration, tensors and forward pass, from any container; nothing of searches or texts."""
