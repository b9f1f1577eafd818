"""Tokenizers from model folders and GGUF files."""
