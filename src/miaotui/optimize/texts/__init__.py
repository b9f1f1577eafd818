"""Texts for calibration and for tests."""
