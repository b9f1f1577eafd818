"""Tokenizers of encoder-decoders: sources with their language and end, targets back to text."""
