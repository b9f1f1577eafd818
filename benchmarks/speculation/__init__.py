"""Drafted tokens: their gain by task, and the cost of drafting."""
