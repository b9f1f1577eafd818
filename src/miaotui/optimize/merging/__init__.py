"""Merging of models: one set of weights from several, without training."""
