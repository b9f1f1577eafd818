"""Optimisation of models: smaller files at a measured loss. Each way takes a model and gives a model and a report card."""
