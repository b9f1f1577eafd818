"""Texts that are alike: the nearest ones, duplicates, and groups with names."""
