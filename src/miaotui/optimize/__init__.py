"""Optimisation of models: smaller files at a measured loss. Each way gives a model and a report card."""
