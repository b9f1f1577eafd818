"""Choosing tokens from logits: the order of operations, penalties, log-probabilities."""
