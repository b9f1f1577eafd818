"""Correction of texts over HTTP."""
