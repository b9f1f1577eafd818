"""vLLM's AsyncLLM as a child process behind our routes."""
