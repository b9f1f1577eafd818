"""Containers of encoders that are neither GGUF files nor plain folders: each becomes an `EncoderContainer`."""
