"""Masked language models: decoding in parallel, and masks of training."""
