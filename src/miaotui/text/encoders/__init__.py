"""Tokenizers of encoder models: one text, or a pair of texts, into the rows of a pass."""
