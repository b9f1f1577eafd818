"""Whole engines of other makers, behind the same loop as our own."""
