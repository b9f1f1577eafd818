"""Choosing tokens from rows of logits."""
