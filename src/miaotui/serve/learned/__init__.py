"""Recommendations and knowledge graphs over HTTP."""
