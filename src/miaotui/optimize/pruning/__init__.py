"""Pruning: layers, key/value heads and feed-forward channels that a model is left without."""
