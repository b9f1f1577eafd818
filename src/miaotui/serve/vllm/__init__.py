"""vLLM's own routes for encoders."""
