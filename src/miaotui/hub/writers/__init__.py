"""Writers of model files: safetensors, and GGUF with the metadata of another file."""
