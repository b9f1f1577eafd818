"""Texts that a chat model writes for a task: requests, answers, and how both reach an `LLM` or a served model."""
