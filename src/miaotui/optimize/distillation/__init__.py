"""Distillation: a smaller or pruned model learns the distributions of another one. Needs the extra ``optimize``."""
