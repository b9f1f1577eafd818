"""Quantisation: types for each matrix, chosen by what they cost, and rounding with error feedback."""
