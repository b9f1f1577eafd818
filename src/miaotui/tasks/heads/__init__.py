"""Heads of classifiers: layers over the vectors of a frozen encoder, how they are fitted, and their files."""
