"""Promises of time for models that restore masked tokens: costs of passes, forecasts, the controller."""
