"""Marian's own model files."""
