"""Tool calls: formats of model families, prompts, and the parser of answers."""
