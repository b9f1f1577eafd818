"""Readers and writers of files that hold weights: GGUF, safetensors, packed weights."""
