"""Low-rank adapters: small changes of a model's matrices, read from PEFT folders and GGUF files."""
