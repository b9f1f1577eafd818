"""Promises of time: costs of steps, forecasts, admission, review."""
