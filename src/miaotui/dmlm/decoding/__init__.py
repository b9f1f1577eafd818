"""Decoding in parallel: a block of masked tokens is restored in fewer passes than it has tokens."""
