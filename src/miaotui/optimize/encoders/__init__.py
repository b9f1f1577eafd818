"""Encoders made smaller: their survey, their rounding, and what it costs in cosine."""
