"""Masks as data: which tokens of a text a model has to restore, drawn anew whenever the text is seen."""
