"""Summaries of texts: sentences or clauses chosen from the text, or written by a chat model and checked against it."""
