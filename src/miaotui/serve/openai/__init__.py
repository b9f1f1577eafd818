"""OpenAI's chat and text completions and the list of models."""
