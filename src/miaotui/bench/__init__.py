"""Evaluation: quality and speed of a task together, with intervals, in one table and one JSON line."""
