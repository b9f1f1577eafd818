"""Promises of time: what steps cost, forecasts, admission, review."""
