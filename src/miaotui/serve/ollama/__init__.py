"""Ollama's routes under ``/api``: chat, generate, embeddings, and what is served."""
