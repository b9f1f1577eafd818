"""Requests whose tokens are computed by engines in other processes."""
