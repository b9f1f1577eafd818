"""The commands of masked language models."""
