"""Cohere's and Jina's form of ranking."""
