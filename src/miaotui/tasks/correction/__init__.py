"""Correction of spelling and grammar: candidates for what may be wrong, judged by a language model."""
